"""The chance of correct guesses under differential privacy, against mechanisms of known epsilon."""

import itertools
import math

import numpy as np
import pytest
from scipy import special, stats

from tfdp.auditing import epsilon_from_guesses, guesses_p_value


def test_without_delta_it_is_exact_for_randomized_response():
    canaries, epsilon = 200, 1.5
    random = np.random.default_rng(0)
    correct = (random.random((20_000, canaries)) < special.expit(epsilon)).sum(axis=1)
    for count in (160, 165, 170):
        found = np.mean(correct >= count)
        bound = guesses_p_value(count, canaries, canaries, epsilon)
        assert found == pytest.approx(bound, abs=4 * math.sqrt(bound / 20_000))


@pytest.mark.parametrize("delta", [1e-6, 1e-3, 0.2])
def test_it_is_the_formula_of_the_paper_written_out(delta):
    canaries, epsilon = 12, 0.7
    for guesses, correct in itertools.product((1, 5, 12), range(13)):
        if correct > guesses:
            continue
        chances = stats.binom(guesses, math.exp(epsilon) / (1 + math.exp(epsilon))).pmf

        def at_least(count, guesses=guesses, chances=chances):
            return math.fsum(chances(i) for i in range(max(count, 0), guesses + 1))

        most = max((at_least(correct - i) - at_least(correct)) / i for i in range(1, canaries + 1))
        expected = min(1.0, at_least(correct) + 2 * canaries * delta * most)
        found = guesses_p_value(correct, guesses, canaries, epsilon, delta)
        assert found == pytest.approx(expected, rel=1e-9)


def distribution_of_correct(canaries, epsilon, reveal):
    """Of randomized response that shows all coins with probability ``reveal``: exact."""
    law = stats.binom(canaries, special.expit(epsilon)).pmf(np.arange(canaries + 1))
    return (1 - reveal) * law + reveal * (np.arange(canaries + 1) == canaries)


@pytest.mark.parametrize("delta", [1e-4, 1e-2])
@pytest.mark.parametrize("canaries", [5, 50])
def test_it_bounds_a_mechanism_that_shows_everything_with_probability_delta(canaries, delta):
    for epsilon in (0.1, 1.0, 3.0):
        chances = distribution_of_correct(canaries, epsilon, delta)
        for correct in range(canaries + 1):
            bound = guesses_p_value(correct, canaries, canaries, epsilon, delta)
            assert chances[correct:].sum() <= bound + 1e-12
        # Without the term for delta it is no bound.
        assert chances[-1] > guesses_p_value(canaries, canaries, canaries, epsilon)


def test_it_bounds_a_mechanism_that_shows_each_coin_with_probability_delta():
    canaries, epsilon, delta = 40, 1.0, 0.01
    right = special.expit(epsilon) * (1 - delta) + delta
    law = stats.binom(canaries, right)
    for correct in range(canaries + 1):
        bound = guesses_p_value(correct, canaries, canaries, epsilon, delta)
        assert law.sf(correct - 1) <= bound + 1e-12


@pytest.mark.parametrize("delta", [0.0, 1e-5])
def test_the_bound_is_the_epsilon_at_which_the_chance_is_what_is_left(delta):
    epsilon = epsilon_from_guesses(95, 100, 300, delta, confidence=0.9)
    assert guesses_p_value(95, 100, 300, epsilon, delta) == pytest.approx(0.1, rel=1e-6)


def test_more_confidence_more_abstention_and_more_delta_lower_the_bound():
    bound = epsilon_from_guesses(95, 100, 1000, 1e-4)
    assert epsilon_from_guesses(95, 100, 1000, 1e-4, confidence=0.999) < bound
    assert epsilon_from_guesses(95, 100, 2000, 1e-4) < bound
    assert epsilon_from_guesses(95, 100, 1000, 1e-3) < bound
    assert epsilon_from_guesses(94, 100, 1000, 1e-4) < bound


def test_nothing_is_shown_by_guesses_that_are_no_better_than_coins():
    assert epsilon_from_guesses(0, 0, 10) == 0.0
    assert epsilon_from_guesses(52, 100, 100) == 0.0
    assert epsilon_from_guesses(100, 100, 100, delta=0.5) == 0.0


@pytest.mark.parametrize("epsilon", [1.0, 4.0])
def test_epsilon_of_randomized_response_is_found_and_not_exceeded(epsilon):
    canaries = 10_000
    random = np.random.default_rng(1)
    correct = random.binomial(canaries, special.expit(epsilon), size=100)
    bounds = np.array([epsilon_from_guesses(int(c), canaries, canaries) for c in correct])
    assert np.mean(bounds <= epsilon) >= 0.93  # 0.95 less what 100 repetitions leave open
    assert np.median(bounds) > 0.9 * epsilon
