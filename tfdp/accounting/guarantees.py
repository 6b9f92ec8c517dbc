"""From releases to epsilon and delta, by either accountant."""

import contextlib
import math
from collections.abc import Mapping

import dp_accounting

from tfdp import _validate
from tfdp.accounting import dp_sgd, events, loss_distribution, renyi

ACCOUNTANTS = ("rdp", "pld")


def epsilon(
    noise_multiplier: float,
    sampling_probability: float,
    steps: int,
    delta: float,
    accountant: str = "rdp",
) -> float:
    """Returns the epsilon of DP-SGD.

    | arguments | epsilon |
    | --- | --- |
    | `steps` is 0 | 0 |
    | `noise_multiplier` is 0 | infinity |
    | `sampling_probability` is 0 | 0 |
    | `sampling_probability` is 1 | that of the Gaussian mechanism, without amplification |

    Args:
        noise_multiplier: standard deviation of the noise over the clip norm, 0 or above.
        sampling_probability: chance of each example to be in a batch, in [0, 1]: the expected
            batch size over the number of examples.
        steps: number of optimizer steps, 0 or above.
        delta: in (0, 1); below one over the number of examples to mean anything.
        accountant: `"rdp"` (Rényi differential privacy, fast) or `"pld"` (privacy loss
            distributions, tighter). Defaults to `"rdp"`.

    Returns:
        Epsilon; infinite if there is no guarantee.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range.

    Example:
        >>> round(epsilon(1.23, 512 / 60_000, 4688, 1e-5), 2)
        2.58
        >>> round(epsilon(1.23, 512 / 60_000, 4688, 1e-5, accountant="pld"), 2)
        2.36

    Formal guarantees:
        The released weights are (epsilon, delta)-differentially private under adding or removing
        one example, provided that batches are Poisson samples, each example's gradient is clipped
        by itself and the noise is Gaussian. Both accountants return upper bounds. RDP orders are
        `tfdp.accounting.RDP_ORDERS`, 1.025 to 2048.

    References:
        - Mironov, Talwar, Zhang (2019), https://arxiv.org/abs/1908.10530
        - Canonne, Kamath, Steinke (2020), proposition 12, https://arxiv.org/abs/2004.00010
        - Doroshenko et al. (2022), https://arxiv.org/abs/2207.04380
    """
    event = dp_sgd.dp_sgd_event(noise_multiplier, sampling_probability)
    count = _validate.integer("steps", steps, minimum=0, maximum=events.MAX_COUNT)
    return epsilon_of(
        events.leaves(event, count),
        _validate.delta("delta", delta),
        _validate.one_of("accountant", accountant, ACCOUNTANTS),
    )


def zcdp_epsilon(rho: float, delta: float) -> float:
    """Returns the simple bound on the epsilon of a rho-zCDP mechanism.

    T steps of the Gaussian mechanism on the full data are T / (2 sigma^2)-zCDP, which makes this
    an independent check by hand: both accountants must come out below.

    Args:
        rho: zCDP parameter, 0 or above.
        delta: in (0, 1).

    Returns:
        `rho + 2 * sqrt(rho * log(1 / delta))`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range.

    Example:
        >>> round(zcdp_epsilon(0.5, 1e-5), 3)
        5.299

    Formal guarantees:
        A mechanism that is rho-zCDP is (epsilon, delta)-differentially private for the value
        returned, which is loose.

    References:
        - Bun, Steinke (2016), proposition 1.3, https://arxiv.org/abs/1605.02065
    """
    rho = _validate.non_negative("rho", rho)
    delta = _validate.delta("delta", delta)
    return rho + 2.0 * math.sqrt(-rho * math.log(delta))


def large_delta(delta: float, num_examples: float) -> str | None:
    """Says why a delta is too large for a data set.

    Args:
        delta: in (0, 1).
        num_examples: number of examples, above 0.

    Returns:
        The warning, or `None` if delta is at most one over the number of examples.
    """
    if delta <= 1.0 / num_examples:
        return None
    return (
        f"delta = {delta:g} is larger than one over the number of examples "
        f"(1/{num_examples:g} = {1.0 / num_examples:.3g}): such a delta allows publishing a whole "
        "example. Choose a smaller one."
    )


def zcdp_epsilon_of(counts: Mapping[events.Leaf, int], delta: float) -> float | None:
    """Returns the simple bound for Gaussian releases; arguments are not checked.

    Args:
        counts: how often each release is made.
        delta: in (0, 1).

    Returns:
        The epsilon, or `None` if there is a release other than a Gaussian on all examples.
    """
    if not all(isinstance(leaf.event, dp_accounting.GaussianDpEvent) for leaf in counts):
        return None
    rho = sum(count / (2.0 * leaf.event.noise_multiplier**2) for leaf, count in counts.items())
    return zcdp_epsilon(rho, delta)


def epsilon_of(
    counts: Mapping[events.Leaf, int], delta: float, accountant: str, *, coarse: bool = False
) -> float:
    """Returns the epsilon of a composition of elementary releases; arguments are not checked.

    Args:
        counts: how often each release is made.
        delta: in (0, 1).
        accountant: `"rdp"` or `"pld"`.
        coarse: whether PLD may be half a percent looser and many times faster.

    Returns:
        Epsilon, possibly infinite.
    """
    if not counts:
        return 0.0
    if accountant == "pld":
        with contextlib.suppress(loss_distribution.UnwieldyError):  # The other bound holds as well.
            return min(
                loss_distribution.epsilon(bound, delta, coarse=coarse)
                for bound in _fixed_size(counts)
            )
    return min(
        renyi.epsilon(renyi.total(bound), delta - slack) if slack < delta else math.inf
        for bound, slack in _truncated(counts)
    )


def delta_of(counts: Mapping[events.Leaf, int], epsilon: float, accountant: str) -> float:
    """Returns the delta of a composition of elementary releases; arguments are not checked.

    Args:
        counts: how often each release is made.
        epsilon: 0 or above, possibly infinite.
        accountant: `"rdp"` or `"pld"`.

    Returns:
        Delta, at most 1.
    """
    if not counts:
        return 0.0
    if any(events.is_non_private(leaf) for leaf in counts):
        return 1.0
    if math.isinf(epsilon):
        return 0.0
    if accountant == "pld":
        with contextlib.suppress(loss_distribution.UnwieldyError):
            return min(loss_distribution.delta(bound, epsilon) for bound in _fixed_size(counts))
    return min(
        1.0,
        *(renyi.delta(renyi.total(bound), epsilon) + slack for bound, slack in _truncated(counts)),
    )


def _truncated(
    counts: Mapping[events.Leaf, int],
) -> list[tuple[Mapping[events.Leaf, int], float]]:
    """Lists compositions that bound the one given, each up to a probability to add to delta.

    Without capacities it is the same composition unless a batch is filled: see
    `truncated_dp_sgd_event`.
    """
    slack = sum(count * events.without_capacity(leaf)[1] for leaf, count in counts.items())
    if slack == 0.0:
        return [(counts, 0.0)]
    roomy = events.replaced(counts, lambda leaf: events.without_capacity(leaf)[0])
    return [(counts, 0.0), (roomy, slack)]


def _fixed_size(counts: Mapping[events.Leaf, int]) -> list[Mapping[events.Leaf, int]]:
    """Lists compositions that bound the one given: see `fixed_size_dp_sgd_event`.

    RDP takes the better of both at every order.
    """
    unsampled = events.replaced(counts, events.without_fixed_size)
    return [counts] if unsampled == counts else [counts, unsampled]
