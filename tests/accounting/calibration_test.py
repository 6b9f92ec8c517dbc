"""Tests of calibration: never above the target, and not far below."""

import math
import sys

import dp_accounting
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdp import accounting
from tfdp.accounting import search

DELTA = 1e-5
ACCOUNTANTS = ("rdp", "pld")


@pytest.mark.parametrize(
    ("target", "q", "steps", "accountant", "expected"),
    [
        (8.0, 0.04, 2250, "rdp", 1.416),  # Opacus, tests/accountants_test.py
        (8.0, 0.04, 2000, "rdp", 1.3562),  # the same; Opacus stops within 0.01 of epsilon
        (3.0, 512 / 60_000, 4688, "pld", 1.07),
        (2.93, 256 / 60_000, 14_063, "pld", 0.98),
    ],
)
def test_published_noise_multipliers(target, q, steps, accountant, expected):
    sigma = accounting.noise_multiplier(target, q, steps, DELTA, accountant)
    assert sigma == pytest.approx(expected, abs=5e-3)


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
@pytest.mark.parametrize(
    ("target", "q", "steps"),
    [(3.0, 0.0085, 4688), (0.5, 1.0, 10), (50.0, 0.02, 500), (1.0, 1e-3, 10_000), (500.0, 0.5, 99)],
)
def test_noise_multiplier_is_within_the_target_and_tight(target, q, steps, accountant):
    sigma = accounting.noise_multiplier(target, q, steps, DELTA, accountant)
    assert (1 - 1e-3) * target <= accounting.epsilon(sigma, q, steps, DELTA, accountant) <= target


@given(st.floats(0.05, 200.0), st.floats(1e-3, 1.0), st.integers(1, 20_000), st.floats(-9, -2))
@settings(max_examples=6, deadline=None)
def test_noise_multiplier_never_overshoots(target, q, steps, exponent):
    delta = 10.0**exponent
    sigma = accounting.noise_multiplier(target, q, steps, delta)
    assert accounting.epsilon(sigma, q, steps, delta) <= target
    if sigma > 0.0101:
        assert accounting.epsilon(0.998 * sigma, q, steps, delta) > target * (1 - 1e-2)


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_noise_multiplier_leaves_room_for_what_is_beside(accountant):
    score = accounting.dp_sgd_event(1.5, 0.02)
    beside = dp_accounting.SelfComposedDpEvent(score, 200)
    sigma = accounting.noise_multiplier(3.0, 0.05, 200, DELTA, accountant, beside)
    for factor, within in ((1.0, True), (0.999, False)):
        ledger = accounting.PrivacyLedger()
        ledger.charge(score, 200)
        ledger.charge(accounting.dp_sgd_event(factor * sigma, 0.05), 200)
        assert (ledger.epsilon(DELTA, accountant) <= 3.0) == within
    with pytest.raises(ValueError, match="`beside` must be within target_epsilon=3"):
        beside = accounting.dp_sgd_event(0.1, 1.0)
        accounting.noise_multiplier(3.0, 0.05, 200, DELTA, accountant, beside)
    assert accounting.noise_multiplier(3.0, 0.1, 0, DELTA, accountant, score) < 0.0101


def test_noise_multiplier_edges():
    assert accounting.noise_multiplier(1.0, 0.1, 0, DELTA) == 0.0
    assert accounting.noise_multiplier(math.inf, 0.1, 10, DELTA) == 0.0
    assert accounting.noise_multiplier(1e-3, 1e-7, 1, DELTA, "pld") == pytest.approx(0.01)
    with pytest.raises(ValueError, match="too small. Received: target_epsilon=1e-12"):
        accounting.noise_multiplier(1e-12, 0.5, 10**12, 1e-9)


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
@pytest.mark.parametrize(
    ("target", "sigma", "q"), [(3.0, 1.23, 512 / 60_000), (1.0, 5.0, 1.0), (20.0, 0.7, 0.01)]
)
def test_steps_is_the_largest_number_within_the_target(target, sigma, q, accountant):
    n = accounting.steps(target, sigma, q, DELTA, accountant)
    assert accounting.epsilon(sigma, q, n, DELTA, accountant) <= target
    assert accounting.epsilon(sigma, q, n + 1, DELTA, accountant) > target


@given(st.floats(0.05, 100.0), st.floats(0.4, 10.0), st.floats(1e-3, 1.0))
@settings(max_examples=12, deadline=None)
def test_steps_property(target, sigma, q):
    n = accounting.steps(target, sigma, q, DELTA)
    assert accounting.epsilon(sigma, q, n, DELTA) <= target
    assert accounting.epsilon(sigma, q, n + 1, DELTA) > target


def test_steps_edges():
    assert accounting.steps(1.0, 0.0, 0.1, DELTA) == 0
    assert accounting.steps(0.1, 0.5, 1.0, DELTA) == 0
    assert accounting.steps(math.inf, 0.0, 0.1, DELTA) == sys.maxsize
    assert accounting.steps(1.0, 1.0, 0.0, DELTA) == sys.maxsize


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_batch_size_is_the_largest_within_the_target(accountant):
    size = accounting.batch_size(3.0, 1.23, 4688, 60_000, DELTA, accountant)
    assert accounting.epsilon(1.23, size / 60_000, 4688, DELTA, accountant) <= 3.0
    assert accounting.epsilon(1.23, (size + 1) / 60_000, 4688, DELTA, accountant) > 3.0


def test_batch_size_edges():
    assert accounting.batch_size(1.0, 0.0, 10, 100, DELTA) == 0
    assert accounting.batch_size(1.0, 100.0, 1, 100, DELTA) == 100
    assert accounting.batch_size(math.inf, 0.0, 1, 100, DELTA) == 100
    assert accounting.batch_size(1.0, 0.0, 0, 100, DELTA) == 100


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_noise_multiplier_for_a_run_told_in_epochs(accountant):
    sigma = accounting.noise_multiplier_for(
        3.0, num_examples=60_000, batch_size=512, epochs=40, delta=DELTA, accountant=accountant
    )
    assert sigma == accounting.noise_multiplier(3.0, 512 / 60_000, 4688, DELTA, accountant)


def test_steps_in_epochs():
    assert accounting.steps_in_epochs(3, 0.1) == 30
    assert accounting.steps_in_epochs(0, 0.1) == 0
    assert accounting.steps_in_epochs(1e-9, 0.5) == 1
    for arguments, name in [((-1, 0.1), "epochs"), ((1, 0), "sampling_p"), ((1e300, 1), "epochs")]:
        with pytest.raises(ValueError, match=f"Received: {name}"):
            accounting.steps_in_epochs(*arguments)


def test_a_delta_above_one_over_the_number_of_examples_warns():
    run = {"num_examples": 1000, "batch_size": 10, "epochs": 1}
    with pytest.warns(UserWarning, match=r"delta = 0\.01 .* \(1/1000 = 0\.001\)") as caught:
        accounting.noise_multiplier_for(3.0, **run, delta=0.01)
        accounting.batch_size(3.0, 1.0, 10, 1000, 0.01)
    assert [warning.filename for warning in caught] == [__file__] * 2
    accounting.noise_multiplier_for(3.0, **run, delta=0.001)


@given(
    st.lists(st.floats(0, 10), min_size=1, max_size=200).map(sorted),
    st.floats(0, 10),
    st.integers(-5, 300),
    st.integers(1, 50),
)
def test_search_finds_the_crossing(costs, budget, guess, stride):
    found = search.largest_within(
        costs.__getitem__, budget, len(costs) - 1, guess=guess, stride=stride
    )
    assert found == sum(cost <= budget for cost in costs) - 1


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (accounting.noise_multiplier, (0.0, 0.1, 1, DELTA), "target_epsilon"),
        (accounting.noise_multiplier, (1.0, 0.0, 1, DELTA), "sampling_probability"),
        (accounting.noise_multiplier, (1.0, 0.1, -1, DELTA), "steps"),
        (accounting.noise_multiplier, (1.0, 0.1, 1, 0.0), "delta"),
        (accounting.noise_multiplier, (1.0, 0.1, 1, DELTA, "gdp"), "accountant"),
        (accounting.steps, (-1.0, 1.0, 0.1, DELTA), "target_epsilon"),
        (accounting.steps, (1.0, -1.0, 0.1, DELTA), "noise_multiplier"),
        (accounting.batch_size, (1.0, 1.0, 10, 0, DELTA), "num_examples"),
        (accounting.batch_size, (math.nan, 1.0, 10, 5, DELTA), "target_epsilon"),
    ],
)
def test_bad_arguments(function, arguments, name):
    with pytest.raises(ValueError, match=f"Received: {name}="):
        function(*arguments)


@pytest.mark.parametrize(
    "change", [{"num_examples": 0}, {"batch_size": 101}, {"epochs": -1}, {"delta": 1.0}]
)
def test_bad_arguments_of_a_run_told_in_epochs(change):
    good = {"num_examples": 100, "batch_size": 10, "epochs": 1, "delta": DELTA}
    (name,) = change
    with pytest.raises(ValueError, match=f"Received: {name}="):
        accounting.noise_multiplier_for(1.0, **{**good, **change})
