"""The inverse questions: how much noise, how many steps, how large a batch for a given epsilon."""

import functools
import math
import warnings
from collections.abc import Callable

import dp_accounting

from tfdp import _validate
from tfdp.accounting import dp_sgd, events, guarantees, renyi, search

# Noise multipliers are searched on a geometric grid, from large to small.
_LARGEST_NOISE = 1e6
_SMALLEST_NOISE = 1e-2
_GRID_STEP = 4e-6
_GRID_POINTS = int(math.log(_LARGEST_NOISE / _SMALLEST_NOISE) / _GRID_STEP)
_TOLERANCE = 2e-4  # relative, in epsilon


def noise_multiplier(
    target_epsilon: float,
    sampling_probability: float,
    steps: int,
    delta: float,
    accountant: str = "rdp",
    beside: dp_accounting.DpEvent | None = None,
) -> float:
    """Returns the least noise with which DP-SGD stays within a target epsilon.

    | arguments | noise multiplier |
    | --- | --- |
    | `target_epsilon` is infinite, or `steps` is 0 and nothing is `beside` | 0 |
    | any noise would do (such as `sampling_probability` below `delta`, one step) | 0.01 |

    Args:
        target_epsilon: epsilon not to exceed, above 0.
        sampling_probability: chance of each example to be in a batch, in (0, 1].
        steps: number of optimizer steps, 0 or above.
        delta: in (0, 1).
        accountant: `"rdp"` or `"pld"`; use the one that will report. Defaults to `"rdp"`.
        beside: what else the budget pays for, such as scores of each step or a tuning run: an
            event made once (`dp_accounting.SelfComposedDpEvent` for several). Defaults to `None`.

    Returns:
        The noise multiplier: noise standard deviation over the clip norm.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range, `beside` cannot be accounted for or is too much
            by itself, or no noise up to 1e6 is enough.

    Example:
        >>> sigma = noise_multiplier(3.0, 512 / 60_000, 4688, 1e-5)
        >>> round(sigma, 2)
        1.12

    Formal guarantees:
        The epsilon of the steps together with what is `beside`, by the same accountant, has been
        computed and is at most `target_epsilon`; it is within 0.1 % of it wherever epsilon is
        continuous in the noise and the result is above 0.01.
    """
    target = _validate.positive("target_epsilon", target_epsilon, allow_infinity=True)
    q = _validate.probability("sampling_probability", sampling_probability)
    if q == 0.0:
        raise _validate.value_error("sampling_probability", sampling_probability, "positive")
    steps = _validate.integer("steps", steps, minimum=0, maximum=events.MAX_COUNT)
    delta = _validate.delta("delta", delta)
    accountant = _validate.one_of("accountant", accountant, guarantees.ACCOUNTANTS)
    spent = {} if beside is None else events.leaves(events.checked(beside, "beside"))
    if math.isinf(target) or not (steps or spent):
        return 0.0
    if spent and guarantees.epsilon_of(spent, delta, accountant) > target:
        raise _validate.value_error("beside", beside, f"within target_epsilon={target_epsilon}")

    def cost(k: int, coarse: bool = False) -> float:
        counts = dict(spent)
        for leaf, times in events.leaves(dp_sgd.dp_sgd_event(_grid_noise(k), q), steps).items():
            counts[leaf] = counts.get(leaf, 0) + times
        return guarantees.epsilon_of(counts, delta, accountant, coarse=coarse)

    guess = _grid_index(_first_guess(target, q, steps, delta))
    k = _search(cost, accountant, target, _GRID_POINTS, guess, 50_000, _TOLERANCE)
    if k < 0:
        raise _validate.value_error(
            "target_epsilon",
            target_epsilon,
            f'within reach of the "{accountant}" accountant at delta={delta}; it is too small',
        )
    return _grid_noise(k)


def noise_multiplier_for(
    target_epsilon: float,
    *,
    num_examples: int,
    batch_size: int,
    epochs: float,
    delta: float,
    accountant: str = "rdp",
) -> float:
    """Returns the least noise for a training run told in epochs: `noise_multiplier` of that run.

    Args:
        target_epsilon: epsilon not to exceed, above 0.
        num_examples: number of training examples, 1 or above.
        batch_size: expected batch size, in [1, `num_examples`].
        epochs: expected number of passes over the data, 0 or above.
        delta: in (0, 1). One above 1 / `num_examples` makes a `UserWarning`.
        accountant: `"rdp"` or `"pld"`. Defaults to `"rdp"`.

    Returns:
        The noise multiplier: noise standard deviation over the clip norm.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range, or no noise up to 1e6 is enough.

    Example:
        >>> sigma = noise_multiplier_for(
        ...     3.0, num_examples=60_000, batch_size=512, epochs=40, delta=1e-5
        ... )
        >>> round(sigma, 2)
        1.12
    """
    num_examples = _validate.integer("num_examples", num_examples, minimum=1)
    size = _validate.integer("batch_size", batch_size, minimum=1, maximum=num_examples)
    _warn_of_large_delta(_validate.delta("delta", delta), num_examples)
    q = size / num_examples
    return noise_multiplier(target_epsilon, q, steps_in_epochs(epochs, q), delta, accountant)


def steps_in_epochs(epochs: float, sampling_probability: float) -> int:
    """Returns how many steps make a number of expected passes over the data.

    Args:
        epochs: number of passes, 0 or above.
        sampling_probability: chance of each example to be in a batch, in (0, 1].

    Returns:
        `epochs / sampling_probability`, rounded up but for rounding errors.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range.

    Example:
        >>> steps_in_epochs(3, 0.1), steps_in_epochs(40, 512 / 60_000)
        (30, 4688)
    """
    epochs = _validate.non_negative("epochs", epochs)
    q = _validate.probability("sampling_probability", sampling_probability)
    if q == 0.0:
        raise _validate.value_error("sampling_probability", sampling_probability, "positive")
    steps = epochs / q * (1.0 - 1e-12)
    if steps > events.MAX_COUNT:
        raise _validate.value_error("epochs", epochs, f"at most {events.MAX_COUNT} steps")
    return math.ceil(steps)


def steps(
    target_epsilon: float,
    noise_multiplier: float,
    sampling_probability: float,
    delta: float,
    accountant: str = "rdp",
) -> int:
    """Returns the largest number of DP-SGD steps within a target epsilon.

    Args:
        target_epsilon: epsilon not to exceed, above 0, possibly infinite.
        noise_multiplier: standard deviation of the noise over the clip norm, 0 or above.
        sampling_probability: chance of each example to be in a batch, in [0, 1].
        delta: in (0, 1).
        accountant: `"rdp"` or `"pld"`. Defaults to `"rdp"`.

    Returns:
        The number of steps: 0 if not even one fits, `sys.maxsize` if there is no limit.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range.

    Example:
        >>> steps(3.0, 1.23, 512 / 60_000, 1e-5)
        6197

    Formal guarantees:
        `tfdp.accounting.epsilon` of the result is at most `target_epsilon`, and of one step more
        it is above.
    """
    event = dp_sgd.dp_sgd_event(noise_multiplier, sampling_probability)
    return further_steps(
        {},
        events.leaves(event),
        _validate.positive("target_epsilon", target_epsilon, allow_infinity=True),
        _validate.delta("delta", delta),
        _validate.one_of("accountant", accountant, guarantees.ACCOUNTANTS),
    )


def batch_size(
    target_epsilon: float,
    noise_multiplier: float,
    steps: int,
    num_examples: int,
    delta: float,
    accountant: str = "rdp",
) -> int:
    """Returns the largest expected batch size within a target epsilon.

    Args:
        target_epsilon: epsilon not to exceed, above 0, possibly infinite.
        noise_multiplier: standard deviation of the noise over the clip norm, 0 or above.
        steps: number of optimizer steps, 0 or above.
        num_examples: number of training examples, 1 or above.
        delta: in (0, 1). One above 1 / `num_examples` makes a `UserWarning`.
        accountant: `"rdp"` or `"pld"`. Defaults to `"rdp"`.

    Returns:
        The expected batch size, in examples: 0 if not even 1 fits, at most `num_examples`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range.

    Example:
        >>> batch_size(3.0, 1.23, 4688, 60_000, 1e-5)
        586

    Formal guarantees:
        `tfdp.accounting.epsilon` at sampling probability result / `num_examples` is at most
        `target_epsilon`, and at one example more it is above, or the result is `num_examples`.
    """
    target = _validate.positive("target_epsilon", target_epsilon, allow_infinity=True)
    sigma = _validate.non_negative("noise_multiplier", noise_multiplier)
    steps = _validate.integer("steps", steps, minimum=0, maximum=events.MAX_COUNT)
    num_examples = _validate.integer("num_examples", num_examples, minimum=1)
    delta = _validate.delta("delta", delta)
    accountant = _validate.one_of("accountant", accountant, guarantees.ACCOUNTANTS)
    _warn_of_large_delta(delta, num_examples)
    if steps == 0 or math.isinf(target):
        return num_examples

    def cost(size: int, coarse: bool = False) -> float:
        if size == 0:
            return 0.0
        counts = events.leaves(dp_sgd.dp_sgd_event(sigma, size / num_examples), steps)
        return guarantees.epsilon_of(counts, delta, accountant, coarse=coarse)

    guess = int(_signal(target, delta) * sigma * num_examples / math.sqrt(steps))
    return _search(cost, accountant, target, num_examples, guess, max(1, guess // 16), 0.0)


def further_steps(
    spent: dict[events.Leaf, int],
    step: dict[events.Leaf, int],
    target_epsilon: float,
    delta: float,
    accountant: str,
) -> int:
    """Returns how many more steps fit on top of what is spent; arguments are not checked.

    Args:
        spent: releases already made.
        step: releases that one step makes.
        target_epsilon: epsilon not to exceed, 0 or above, possibly infinite.
        delta: in (0, 1).
        accountant: `"rdp"` or `"pld"`.

    Returns:
        The number of steps: 0 if none fits, `sys.maxsize` if there is no limit.
    """
    if math.isinf(target_epsilon):
        return events.MAX_COUNT
    if any(events.is_non_private(leaf) for leaf in (*spent, *step)):
        return 0

    def cost(n: int, coarse: bool = False) -> float:
        counts = dict(spent)
        for leaf, times in step.items():
            counts[leaf] = counts.get(leaf, 0) + n * times
        made = {leaf: count for leaf, count in counts.items() if count}
        return guarantees.epsilon_of(made, delta, accountant, coarse=coarse)

    if not step:
        return events.MAX_COUNT if cost(0) <= target_epsilon else 0
    guess = renyi.most_repetitions(renyi.total(spent), renyi.total(step), target_epsilon, delta)
    guess = int(min(max(guess, 0.0), float(2**62)))
    stride = 1
    if accountant == "pld":
        guess, stride = guess + guess // 8, max(1, guess // 16)
    found = _search(cost, accountant, target_epsilon, events.MAX_COUNT, guess, stride, 0.0)
    return max(0, found)


def _warn_of_large_delta(delta: float, num_examples: int) -> None:
    message = guarantees.large_delta(delta, num_examples)
    if message:
        warnings.warn(message, UserWarning, stacklevel=3)


def _search(
    cost: Callable[[int, bool], float],
    accountant: str,
    target: float,
    limit: int,
    guess: int,
    stride: int,
    tolerance: float,
) -> int:
    """Finds the largest integer within the target, with few evaluations of dear distributions."""
    if accountant == "rdp":
        return search.largest_within(
            functools.partial(cost, coarse=False),
            target,
            limit,
            guess=guess,
            stride=stride,
            tolerance=tolerance,
        )
    fine = functools.cache(functools.partial(cost, coarse=False))
    coarse = functools.cache(functools.partial(cost, coarse=True))
    # Coarse distributions overstate epsilon by a factor that hardly moves near the answer: aim at
    # the target times that factor, and learn the factor from one fine evaluation an iteration.
    aim, final_stride = target, max(1, stride // 64)
    for _ in range(3):
        previous = guess
        guess = search.largest_within(
            coarse, aim, limit, guess=guess, stride=stride, tolerance=_TOLERANCE / 2
        )
        if guess <= 0 or not 0.0 < fine(guess) < math.inf or guess == previous:
            break
        if target * (1.0 - _TOLERANCE) <= fine(guess) <= target:
            break
        aim = target * (1.0 - _TOLERANCE / 2) * coarse(guess) / fine(guess)
        stride = max(1, stride // 16)
    return search.largest_within(
        fine, target, limit, guess=guess, stride=final_stride, tolerance=tolerance
    )


def _grid_noise(k: int) -> float:
    return _LARGEST_NOISE * math.exp(-_GRID_STEP * k)


def _grid_index(sigma: float) -> int:
    return int(math.log(_LARGEST_NOISE / sigma) / _GRID_STEP)


def _signal(target_epsilon: float, delta: float) -> float:
    """Returns q * sqrt(steps) / sigma at which epsilon is roughly the target.

    In the large-noise limit RDP is rho * order with rho = q^2 steps / (2 sigma^2), so that epsilon
    is about rho + 2 sqrt(rho log(1/delta)); solved for rho.
    """
    log_delta = -math.log(delta)
    return math.sqrt(2.0) * (math.sqrt(log_delta + target_epsilon) - math.sqrt(log_delta))


def _first_guess(target_epsilon: float, q: float, steps: int, delta: float) -> float:
    signal = _signal(target_epsilon, delta)
    sigma = q * math.sqrt(steps) / signal if signal else _LARGEST_NOISE
    if q < 1.0:
        sigma = max(sigma, 0.4)  # below, subsampling no longer amplifies and epsilon explodes
    return min(max(sigma, _SMALLEST_NOISE), _LARGEST_NOISE)
