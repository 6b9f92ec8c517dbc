"""The sampler of the discrete Gaussian: its table, its law, and bits that decide late."""

import decimal
import secrets

import numpy as np
import pytest
from scipy import stats

from tfdp.noise.sampler import PRECISION, DiscreteGaussianSampler, _alias_table, _probabilities

SIGMAS = [0.7, 2.0, 5.0]


def law(sigma, reach):
    weights = np.exp(-(np.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
    return weights / weights.sum()


def p_value(draws, sigma):
    """Of the chi-square test in which each integer is a cell, but for the rare ones of the ends."""
    expected = len(draws) * law(sigma, 100)
    reach = int((expected >= 5).sum()) // 2
    counts = np.bincount(np.clip(draws, -reach, reach) + reach, minlength=2 * reach + 1)
    middle = expected[100 - reach : 101 + reach].copy()
    middle[0], middle[-1] = expected[: 101 - reach].sum(), expected[100 + reach :].sum()
    return stats.chisquare(counts, middle).pvalue


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("first_bits", [None, 1, 3])
def test_draws_have_the_law_also_where_the_first_bits_do_not_decide(sigma, first_bits):
    draws = DiscreteGaussianSampler(sigma, first_bits).draw(100_000)
    assert p_value(draws, sigma) > 1e-4
    for wrong in (0.97 * sigma, 1.03 * sigma):
        assert p_value(draws, wrong) < 1e-6


@pytest.mark.parametrize("last_bits", [lambda bits: 0, lambda bits: 2**bits - 1])
def test_without_the_last_bits_few_first_ones_have_another_law(last_bits, monkeypatch):
    sampler = DiscreteGaussianSampler(2.0, first_bits=3)
    monkeypatch.setattr(secrets, "randbits", last_bits)
    assert p_value(sampler.draw(100_000), 2.0) < 1e-6


def test_hundreds_of_thousands_of_draws_meet_a_few_thresholds(monkeypatch):
    asked = []
    monkeypatch.setattr(secrets, "randbits", lambda bits: asked.append(bits) or 0)
    sampler = DiscreteGaussianSampler(800.0)
    draws = sampler.draw(500_000)
    assert 0 < len(asked) < 50  # Of 2**17 values that the first bits have, one is a tie.
    assert set(asked) == {PRECISION - 32}
    assert abs(draws.std() / 800.0 - 1) < 0.01


@pytest.mark.parametrize("sigma", [0.1, *SIGMAS, 700.25])
def test_the_table_holds_the_law_to_the_precision_that_is_promised(sigma):
    probabilities = _probabilities(sigma)
    reach = len(probabilities) // 2
    with decimal.localcontext() as context:
        context.prec = 80
        twice = 2 * decimal.Decimal(sigma) ** 2
        weights = [(-decimal.Decimal(x * x) / twice).exp() for x in range(reach + 1)]
        total = 2 * sum(weights) - 1
        assert weights[-1] / total < 2 * decimal.Decimal(2) ** -PRECISION
        deviation = sum(
            abs(decimal.Decimal(probability) / 2**PRECISION - weights[abs(place - reach)] / total)
            for place, probability in enumerate(probabilities)
        )
        assert deviation / 2 < decimal.Decimal(2) ** -141
    assert sum(probabilities) == 2**PRECISION and probabilities == probabilities[::-1]


@pytest.mark.parametrize("sigma", [0.1, *SIGMAS, 700.25])
def test_the_columns_hold_exactly_the_probabilities(sigma):
    probabilities = _probabilities(sigma)
    bits = len(probabilities).bit_length()
    own, other = _alias_table(probabilities, bits)
    size, held = 2 ** (PRECISION - bits), [0] * 2**bits
    for column, part in enumerate(own):
        assert 0 <= part <= size
        held[column] += part
        held[other[column]] += size - part
    assert held == probabilities + [0] * (2**bits - len(probabilities))


def test_no_draws_and_bad_arguments():
    assert DiscreteGaussianSampler(1.0).draw(0).shape == (0,)
    with pytest.raises(ValueError, match="stddev=5000"):
        DiscreteGaussianSampler(5000.0)
    with pytest.raises(ValueError, match="stddev=0"):
        DiscreteGaussianSampler(0.0)
    with pytest.raises(ValueError, match="first_bits=40"):
        DiscreteGaussianSampler(1.0, first_bits=40)
    with pytest.raises(ValueError, match="count=-1"):
        DiscreteGaussianSampler(1.0).draw(-1)
