"""Audits by repeated runs of mechanisms whose privacy is known."""

import json

import dp_accounting
import numpy as np
import pytest
from scipy import stats

from tfdp.auditing import repeated_runs_audit, scores_of_runs
from tfdp.auditing.repeated_runs import _uppers

DELTA = 1e-5


def gaussian(mu, runs, random):
    return random.normal(mu, 1, runs), random.normal(0, 1, runs)


def laplace(epsilon, runs, random):
    return random.laplace(1, 1 / epsilon, runs), random.laplace(0, 1 / epsilon, runs)


def audits(mechanism, parameter, runs, repetitions, delta=DELTA):
    random = np.random.default_rng(0)
    return [
        repeated_runs_audit(*mechanism(parameter, runs, random), delta=delta)
        for _ in range(repetitions)
    ]


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_the_laplace_mechanism_is_not_overestimated(epsilon):
    bounds = np.array([a.epsilon_lower_bound for a in audits(laplace, epsilon, 1000, 100)])
    assert np.mean(bounds <= epsilon) >= 0.95
    assert np.median(bounds) > 0.4 * epsilon


@pytest.mark.parametrize("epsilon", [1.0, 4.0])
def test_the_gaussian_mechanism_is_not_overestimated(epsilon):
    mu = 1 / dp_accounting.get_sigma_gaussian(epsilon, DELTA)
    found = audits(gaussian, mu, 1000, 100)
    for bounds, truth in (
        ([a.epsilon_lower_bound for a in found], epsilon),
        ([a.mu_lower_bound for a in found], mu),
        ([a.gaussian_epsilon_lower_bound for a in found], epsilon),
    ):
        assert np.mean(np.array(bounds) <= truth) >= 0.95


def test_nearly_all_of_the_epsilon_of_the_gaussian_mechanism_is_found():
    mu = 1 / dp_accounting.get_sigma_gaussian(4.0, DELTA)
    found = audits(gaussian, mu, 100_000, 2)
    for audit in found:
        assert 0.9 * 4 < audit.gaussian_epsilon_lower_bound <= 4
        assert 0.5 * 4 < audit.epsilon_lower_bound < audit.gaussian_epsilon_lower_bound


def test_runs_that_cannot_be_told_apart_show_nothing():
    random = np.random.default_rng(0)
    same = repeated_runs_audit(random.normal(size=500), random.normal(size=500), delta=DELTA)
    constant = repeated_runs_audit(np.zeros(500), np.zeros(500), delta=DELTA)
    for audit in (same, constant):
        assert audit.epsilon_lower_bound < 0.05 and audit.mu_lower_bound < 0.05
    assert constant.gaussian_epsilon_lower_bound == 0


def test_runs_that_are_told_apart_always_show_what_their_number_allows():
    audit = repeated_runs_audit(np.ones(1000), np.zeros(1000), delta=DELTA)
    upper = 1 - 0.025 ** (1 / 500)  # Clopper-Pearson of no error in 500, at 97.5 %
    assert audit.test.false_positive_rate_upper == pytest.approx(upper)
    assert audit.epsilon_lower_bound == pytest.approx(np.log((1 - DELTA - upper) / upper))
    assert audit.mu_lower_bound == pytest.approx(-2 * stats.norm.ppf(upper))


def test_the_upper_bounds_are_those_of_scipy():
    positives, negatives = np.array([0, 3, 40, 50]), np.array([60, 7, 1, 0])
    found = _uppers(positives, negatives, 50, 60, 0.9)
    for counts, total, uppers in ((positives, 50, found[0]), (negatives, 60, found[1])):
        for count, upper in zip(counts, uppers, strict=True):
            exact = stats.binomtest(int(count), total).proportion_ci(0.9, method="exact").high
            assert upper == pytest.approx(exact)


def test_the_threshold_is_not_chosen_by_the_runs_that_judge_it():
    # Those that choose are told apart without error; those that judge not at all.
    present, absent = np.zeros(200), np.zeros(200)
    present[::2] = 1
    audit = repeated_runs_audit(present, absent, delta=DELTA)
    assert audit.test.threshold == 0.5
    assert audit.test.false_negative_rate == 1.0 and audit.epsilon_lower_bound == 0


def test_runs_alternate_and_are_scored():
    calls = []

    def train(with_example):
        calls.append(with_example)
        return len(calls)

    assert scores_of_runs(train, 3) == ((1, 3, 5), (2, 4, 6))
    assert calls == [True, False] * 3
    with pytest.raises(TypeError, match="score of train"):
        scores_of_runs(lambda with_example: None, 1)


def test_the_result_is_told_in_words_json_and_a_picture():
    present, absent = gaussian(3.0, 400, np.random.default_rng(0))
    audit = repeated_runs_audit(present, absent, delta=DELTA, claimed_epsilon=0.5)
    assert audit.contradicts_claim and "CONTRADICTS" in str(audit)
    record = json.loads(audit.to_json())
    again = repeated_runs_audit(
        record["scores_with"], record["scores_without"], delta=DELTA, claimed_epsilon=0.5
    )
    assert again == audit
    left, right = audit.picture().axes
    assert len(right.lines) == 3 and left.lines[0].get_xdata()[0] == audit.test.threshold
