"""What is taken for wrong with two recordings, and what is not."""

import dp_accounting
import numpy as np
import pytest

import tfdp
from tfdp.auditing import violations


@pytest.mark.parametrize("shape", [(2, 1), (7, 1), (2, 2), (6, 3), (30, 40), (5, 300)])
def test_independent_draws_are_not_alike_and_repeated_ones_are(shape):
    random = np.random.default_rng(0)
    for _ in range(300):
        rows = 0.7 * random.normal(size=shape)
        assert not violations._alike(rows)
        if shape[1] > 2:
            rows[-1] = rows[0] + 1e-6
            assert violations._alike(rows)


@pytest.mark.parametrize("rows", [1, 4])
def test_constant_noise_of_no_size_is_left_to_the_other_tests(rows):
    assert not violations._alike(np.zeros((rows, 3)))


def test_released_values_are_compared_to_the_bit():
    values = [np.array([1.0, np.nan]), np.array("text"), np.zeros(0)]
    assert not list(violations.of_releases(values, [value.copy() for value in values]))
    for number, other in ((0, [1.0, 2.0]), (0, [1.0, np.nan, 1.0]), (1, "Text"), (2, [0.0])):
        changed = [*values[:number], np.array(other), *values[number + 1 :]]
        (found,) = violations.of_releases(values, changed)
        assert "1 of 3 released arrays differ" in found
    assert list(violations.of_releases(values, values[:2]))


def test_the_noise_of_all_gaussian_events_is_known():
    ledger = tfdp.accounting.PrivacyLedger()
    gaussian = dp_accounting.GaussianDpEvent(3.0)
    ledger.charge(dp_accounting.SelfComposedDpEvent(gaussian, 4), 2)
    ledger.charge(dp_accounting.PoissonSampledDpEvent(0.1, gaussian))
    ledger.charge(dp_accounting.SampledWithoutReplacementDpEvent(9, 2, gaussian))
    ledger.charge(tfdp.accounting.truncated_dp_sgd_event(1.5, 0.1, 100, 12), 5)
    ledger.charge(dp_accounting.NonPrivateDpEvent())
    ledger.charge(dp_accounting.dp_event.ZCDpEvent(0.1), 7)
    assert violations.multipliers_charged(ledger) == {3.0: 10, 1.5: 5, 0.0: 1, -1.0: 7}
