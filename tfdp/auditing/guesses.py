"""What correct guesses about independent coin flips say against a claim of privacy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy import special

from tfdp import _validate

_HALVINGS = 40


def guesses_p_value(
    correct: int, guesses: int, canaries: int, epsilon: float, delta: float = 0.0
) -> float:
    """The chance of so many correct guesses about canaries, if training is private.

    Each of ``canaries`` examples was included by an independent fair coin. Whoever sees what
    training released guesses for some of them whether they were, and abstains for the others.

    Args:
        correct: Number v of correct guesses.
        guesses: Number r of guesses; it must not depend on what training released.
        canaries: Number m of canaries, also those nothing was guessed about.
        epsilon: Epsilon of the claim, 0 or above.
        delta: Delta of the claim, in [0, 1]. Defaults to 0.

    Returns:
        An upper bound, at most 1, on the probability of ``correct`` or more correct guesses, for
        every way of guessing and every training that is (epsilon, delta)-DP under adding or
        removing one example.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a number is out of range.

    Formal guarantee: with W ~ Binomial(r, e^epsilon / (1 + e^epsilon)) and
    f(v) = P[W >= v], the probability is at most
    ``f(v) + 2 m delta max_{1 <= i <= m} (f(v - i) - f(v)) / i``.

    Example:
        >>> round(guesses_p_value(90, 100, 1000, epsilon=2.0), 4)
        0.3426
        >>> round(guesses_p_value(90, 100, 1000, epsilon=1.0, delta=1e-5), 4)
        0.0008

    References:
        Steinke, Nasr, Jagielski 2023, "Privacy Auditing with One (1) Training Run",
        arXiv:2305.08846, section 5 and appendix D.
    """
    correct, guesses, canaries = _checked(correct, guesses, canaries)
    epsilon = _validate.non_negative("epsilon", epsilon)
    return _p_value(correct, guesses, canaries, epsilon, _validate.probability("delta", delta))


def epsilon_from_guesses(
    correct: int, guesses: int, canaries: int, delta: float = 0.0, confidence: float = 0.95
) -> float:
    """The epsilon that correct guesses about canaries rule out.

    Args:
        correct: As of `guesses_p_value`.
        guesses: As of `guesses_p_value`.
        canaries: As of `guesses_p_value`.
        delta: As of `guesses_p_value`.
        confidence: Of the bound, in (0, 1). Defaults to 0.95.

    Returns:
        A lower bound on epsilon at ``delta``; 0 where nothing can be said.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a number is out of range.

    Formal guarantee: if training is (epsilon, delta)-DP, the bound is above epsilon with
    probability at most ``1 - confidence``. The probability is over the coins of the canaries and
    the randomness of training.

    Example:
        >>> round(epsilon_from_guesses(100, 100, 100), 3)  # All were right.
        3.493
        >>> round(epsilon_from_guesses(90, 100, 1000, delta=1e-5), 3)
        1.626
        >>> epsilon_from_guesses(50, 100, 1000)
        0.0

    References:
        Steinke, Nasr, Jagielski 2023, "Privacy Auditing with One (1) Training Run",
        arXiv:2305.08846, section 5 and appendix D.
    """
    correct, guesses, canaries = _checked(correct, guesses, canaries)
    delta = _validate.probability("delta", delta)
    level = 1.0 - _validate.delta("confidence", confidence)

    def refused(epsilon: float) -> bool:
        return _p_value(correct, guesses, canaries, epsilon, delta) < level

    # The p-value need not grow with epsilon everywhere when delta > 0. Any epsilon that is
    # refused is a valid bound nevertheless: a training that is DP at a smaller one is so there.
    if not refused(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while refused(high):
        low, high = high, 2.0 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        low, high = (middle, high) if refused(middle) else (low, middle)
    return low


def _checked(correct: int, guesses: int, canaries: int) -> tuple[int, int, int]:
    canaries = _validate.integer("canaries", canaries, minimum=1)
    guesses = _validate.integer("guesses", guesses, minimum=0, maximum=canaries)
    return _validate.integer("correct", correct, minimum=0, maximum=guesses), guesses, canaries


def _p_value(correct: int, guesses: int, canaries: int, epsilon: float, delta: float) -> float:
    accuracy = special.expit(epsilon)  # Of randomized response.
    p_value = _at_least(correct, guesses, accuracy)
    if delta > 0 and correct > 0:
        # Where f(v - i) is 1 as far as floats can tell, a larger i makes the quotient smaller.
        deviation = math.sqrt(guesses * accuracy * (1 - accuracy))
        certain = max(0, math.floor(guesses * accuracy - 40 * deviation) - 60)
        fewer = np.arange(correct - 1, min(certain, correct - 1) - 1, -1)
        gain = _at_least(fewer, guesses, accuracy) - p_value
        p_value += 2 * canaries * delta * np.max(gain / (correct - fewer))
    return float(min(p_value, 1.0))


def _at_least(count: Any, trials: int, chance: float) -> Any:
    """The chance of ``count`` or more of a binomial law; `scipy.stats` is ten times as slow."""
    inside = np.maximum(count, 1)
    return np.where(np.less(count, 1), 1.0, special.betainc(inside, trials - inside + 1, chance))
