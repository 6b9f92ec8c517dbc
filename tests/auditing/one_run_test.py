"""One-run audits of mechanisms whose epsilon is known."""

import json

import dp_accounting
import numpy as np
import pytest

from tfdp.auditing import epsilon_from_guesses, one_run_audit

DELTA = 1e-5


def randomized_response(epsilon, canaries, random):
    coins = random.random(canaries) < 0.5
    honest = random.random(canaries) < 1 / (1 + np.exp(-epsilon))
    return np.where(honest, coins, ~coins).astype(float), coins


def gaussian_mechanism(epsilon, canaries, random):
    """Each coin in a coordinate of its own: one step of DP-SGD on orthogonal gradients."""
    coins = random.random(canaries) < 0.5
    noise_multiplier = dp_accounting.get_sigma_gaussian(epsilon, DELTA)
    return coins + random.normal(0, noise_multiplier, canaries), coins


def bounds_of(mechanism, epsilon, canaries, delta, repetitions=100, **kwargs):
    random = np.random.default_rng(0)
    return np.array(
        [
            one_run_audit(
                *mechanism(epsilon, canaries, random), delta=delta, **kwargs
            ).epsilon_lower_bound
            for _ in range(repetitions)
        ]
    )


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 4.0])
def test_randomized_response_is_not_overestimated(epsilon):
    bounds = bounds_of(randomized_response, epsilon, 500, 0.0)
    assert np.mean(bounds <= epsilon) >= 0.95


@pytest.mark.parametrize("epsilon", [1.0, 4.0])
def test_the_gaussian_mechanism_is_not_overestimated(epsilon):
    bounds = bounds_of(gaussian_mechanism, epsilon, 1000, DELTA)
    assert np.mean(bounds <= epsilon) >= 0.95
    assert bounds.max() > 0.2 * epsilon


def test_randomized_response_is_found_tightly_where_there_are_many_canaries():
    guesses = [(5_000, 5_000)]
    bounds = bounds_of(randomized_response, 4.0, 10_000, 0.0, repetitions=20, guesses=guesses)
    assert np.median(bounds) > 0.85 * 4.0


def test_half_of_the_epsilon_of_the_gaussian_mechanism_is_found():
    guesses = [(100, 100)]
    bounds = bounds_of(gaussian_mechanism, 4.0, 10_000, DELTA, repetitions=20, guesses=guesses)
    assert np.median(bounds) > 0.5 * 4.0
    assert bounds.max() <= 4.0


def test_guesses_are_the_highest_and_the_lowest_scores():
    scores = [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]
    included = np.array([True, True, False, True, True, False])
    audit = one_run_audit(scores, included, delta=0.0, guesses=[(2, 1), (3, 0), (0, 2), (3, 3)])
    assert [guess.correct for guess in audit.guesses] == [3, 2, 1, 3]


def test_confidence_is_shared_by_all_guesses():
    scores, included = randomized_response(3.0, 100, np.random.default_rng(0))
    pairs = [(50, 50), (10, 10), (5, 5), (0, 40)]
    audit = one_run_audit(scores, included, delta=0.0, guesses=pairs, confidence=0.9)
    for guess in audit.guesses:
        total = guess.included + guess.excluded
        alone = epsilon_from_guesses(guess.correct, total, 100, 0.0, confidence=0.975)
        assert guess.epsilon == pytest.approx(alone)
    assert audit.epsilon_lower_bound == audit.best.epsilon == max(g.epsilon for g in audit.guesses)


def test_without_a_choice_all_half_and_fewer_are_guessed():
    scores, included = randomized_response(3.0, 101, np.random.default_rng(0))
    pairs = [(g.included, g.excluded) for g in one_run_audit(scores, included, delta=0.0).guesses]
    assert pairs == [(51, 50), (25, 25), (13, 12), (6, 6)]


def test_scores_that_say_nothing_show_nothing():
    included = np.random.default_rng(0).random(1000) < 0.5
    for scores in (np.zeros(1000), np.random.default_rng(1).normal(size=1000)):
        audit = one_run_audit(scores, included, delta=DELTA, claimed_epsilon=0.1)
        assert audit.epsilon_lower_bound == 0 and not audit.contradicts_claim


def test_the_result_is_told_in_words_json_and_a_picture():
    scores, included = randomized_response(3.0, 200, np.random.default_rng(0))
    audit = one_run_audit(scores, included, delta=DELTA, claimed_epsilon=0.5)
    assert audit.contradicts_claim and "CONTRADICTS the claimed epsilon 0.5" in str(audit)
    record = json.loads(audit.to_json())
    again = one_run_audit(
        record["scores"], record["included"], delta=record["delta"], claimed_epsilon=0.5
    )
    assert again == audit
    scores_axes, bounds_axes = audit.picture().axes
    assert "200 canaries" in scores_axes.get_title()
    assert bounds_axes.lines[0].get_ydata().max() == audit.epsilon_lower_bound


def test_an_infinite_claim_is_none():
    scores, included = randomized_response(3.0, 200, np.random.default_rng(0))
    audit = one_run_audit(scores, included, delta=DELTA, claimed_epsilon=float("inf"))
    assert audit.claimed_epsilon is None and not audit.contradicts_claim
    assert "nothing is claimed" in str(audit)


@pytest.mark.parametrize(
    "guesses", [3, "ab", [], [1], [(1,)], [(0, 0)], [(4, 4)], [(-1, 2)], [(1.0, 1)], [True]]
)
def test_bad_guesses_are_refused(guesses):
    with pytest.raises((TypeError, ValueError), match="guesses"):
        one_run_audit(np.zeros(7), np.arange(7) < 3, delta=0.0, guesses=guesses)


def test_coins_that_were_not_fair_are_refused():
    with pytest.raises(ValueError, match="`included` must be what fair coins showed"):
        one_run_audit(np.zeros(100), np.ones(100, bool), delta=0.0)
