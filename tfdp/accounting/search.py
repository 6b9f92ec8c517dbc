"""Search for the largest integer whose cost stays within a budget, with few evaluations.

One evaluation of a privacy loss distribution can take half a second, so plain bisection is too
slow and a good guess is worth using. Real parameters are searched on a fine grid of integers:
then there is one algorithm, and its answer has always been evaluated.
"""

import math
from collections.abc import Callable


def largest_within(
    cost: Callable[[int], float],
    budget: float,
    limit: int,
    *,
    guess: int = 1,
    stride: int = 1,
    tolerance: float = 0.0,
) -> int:
    """Finds the largest integer whose cost is within the budget.

    Args:
        cost: a function of an integer that does not decrease; may return infinity.
        budget: the cost not to exceed.
        limit: largest integer to consider.
        guess: where to start.
        stride: first distance to move away from the guess; it doubles from there.
        tolerance: stop early at an integer whose cost lies within this fraction below the budget.
            Defaults to 0: the exact answer.

    Returns:
        The integer, in [0, limit], or -1 if even 0 costs too much.
    """
    enough = budget * (1.0 - tolerance)
    good, good_cost = -1, 0.0
    bad, bad_cost = limit + 1, math.inf

    def probe(x: int) -> bool:
        nonlocal good, good_cost, bad, bad_cost
        value = cost(x)
        within = value <= budget
        if within:
            good, good_cost = x, value
        else:
            bad, bad_cost = x, value
        return within

    def done() -> bool:
        return bad - good <= 1 or (good >= 0 and 0.0 < tolerance and good_cost >= enough)

    x = min(max(guess, 0), limit)
    upwards = probe(x)
    while not done():
        x = min(max(x + stride if upwards else x - stride, 0), limit)
        if probe(x) is not upwards:
            break
        stride *= 2

    while not done():
        width = bad - good
        x = min(max(_crossing(good, good_cost, bad, bad_cost, budget), good + 1), bad - 1)
        # The crossing is near x: one probe on its other side usually closes the bracket.
        margin = max(1, width // 64)
        beyond = x + margin if probe(x) else x - margin
        if not done() and good < beyond < bad:
            probe(beyond)
        if not done() and bad - good > width // 2:
            probe((good + bad) // 2)
    return good


def _crossing(good: int, good_cost: float, bad: int, bad_cost: float, budget: float) -> int:
    """Interpolates the logarithm of the cost; halves where that is impossible."""
    if not 0.0 < good_cost <= budget < bad_cost < math.inf:
        return (good + bad) // 2
    spread = math.log(bad_cost) - math.log(good_cost)
    if spread <= 0.0:
        return (good + bad) // 2
    share = (math.log(budget) - math.log(good_cost)) / spread
    return good + int(share * (bad - good))
