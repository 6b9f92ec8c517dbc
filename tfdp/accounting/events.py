"""What is charged: DP events, checked, copied and reduced to the releases an accountant composes.

An event only *describes* a mechanism (`dp_accounting.DpEvent`); the mathematics is elsewhere.
This module refuses, before anything is charged, an event that no accountant here can bound.
"""

import dataclasses
import math
import sys

import dp_accounting

from tfdp import _validate

# The events supported, with their fields; class and field names are also what is saved.
EVENT_FIELDS: dict[type[dp_accounting.DpEvent], tuple[str, ...]] = {
    dp_accounting.NoOpDpEvent: (),
    dp_accounting.NonPrivateDpEvent: (),
    dp_accounting.GaussianDpEvent: ("noise_multiplier",),
    dp_accounting.LaplaceDpEvent: ("noise_multiplier",),
    dp_accounting.dp_event.ZCDpEvent: ("rho", "xi"),
    dp_accounting.PoissonSampledDpEvent: ("sampling_probability", "event"),
    dp_accounting.SelfComposedDpEvent: ("event", "count"),
    dp_accounting.ComposedDpEvent: ("events",),
}

MAX_COUNT = sys.maxsize  # also the largest value of an int64 step counter
MAX_DEPTH = 32

# Parameters beyond these are moved to the nearest bound in the direction of *less* privacy, where
# float arithmetic is still sound. Noise below the smallest counts as none.
_SMALLEST_NOISE = 1e-6
_LARGEST_NOISE = 1e6
_SMALLEST_SAMPLING = 1e-12
_LARGEST_SAMPLING = 1.0 - 1e-9


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One elementary release, usable as a key.

    Attributes:
        key: text that identifies the release; equal keys mean equal mechanisms.
        event: the mechanism: non-private, Gaussian, Laplace, zCDP or Poisson-sampled Gaussian.
    """

    key: str
    event: dp_accounting.DpEvent = dataclasses.field(compare=False)


def dp_sgd_event(
    noise_multiplier: float, sampling_probability: float, *, microbatch_size: int = 1
) -> dp_accounting.DpEvent:
    """Describes one step of DP-SGD: a noisy sum of clipped gradients over a Poisson sample.

    Each example enters the batch independently with probability `sampling_probability`; each
    contributes at most the clip norm C to the sum; Gaussian noise of standard deviation
    `noise_multiplier * C` is added.

    | arguments | event |
    | --- | --- |
    | `noise_multiplier` is 0 | `NonPrivateDpEvent` |
    | `sampling_probability` is 1 | `GaussianDpEvent`, no amplification |
    | otherwise | `PoissonSampledDpEvent` of a `GaussianDpEvent` |

    Args:
        noise_multiplier: standard deviation of the noise over the clip norm, 0 or above.
        sampling_probability: chance of each example to be in the batch, in [0, 1]: the expected
            batch size over the number of examples.
        microbatch_size: number of examples whose gradients are averaged *before* clipping.
            Defaults to 1, every example clipped by itself.

    Returns:
        The event, for `tfdp.accounting.PrivacyLedger.charge`.

    Raises:
        TypeError: if an argument has the wrong type.
        ValueError: if an argument is out of range.

    Example:
    >>> dp_sgd_event(1.1, 0.01)
    PoissonSampledDpEvent(sampling_probability=0.01, event=GaussianDpEvent(noise_multiplier=1.1))
    >>> dp_sgd_event(1.1, 1.0, microbatch_size=4)
    GaussianDpEvent(noise_multiplier=0.55)

    Formal guarantees:
        The neighbouring relation is adding or removing one example. With `microbatch_size` above
        1 one example replaces the clipped mean of its group by another clipped mean, so the sum
        moves by up to 2C: the event then holds half the noise multiplier.

    References:
        - Abadi et al. (2016), https://arxiv.org/abs/1607.00133
        - Mironov, Talwar, Zhang (2019), https://arxiv.org/abs/1908.10530
    """
    sigma = _validate.non_negative("noise_multiplier", noise_multiplier)
    q = _validate.probability("sampling_probability", sampling_probability)
    if _validate.integer("microbatch_size", microbatch_size, minimum=1) > 1:
        sigma /= 2.0
    if sigma == 0.0:
        return dp_accounting.NonPrivateDpEvent()
    gaussian = dp_accounting.GaussianDpEvent(sigma)
    if q == 1.0:
        return gaussian
    return dp_accounting.PoissonSampledDpEvent(q, gaussian)


def checked(event: dp_accounting.DpEvent) -> dp_accounting.DpEvent:
    """Copies an event after checking that it can be accounted for.

    Args:
        event: the event to check.

    Returns:
        An equal event that holds only plain Python numbers and shares no list with the argument.

    Raises:
        TypeError: if it is not a `dp_accounting.DpEvent`, or a field has the wrong type.
        ValueError: if the event, one nested in it, or a parameter is not supported.
    """
    return _checked(event, depth=0)


def _checked(event: dp_accounting.DpEvent, depth: int) -> dp_accounting.DpEvent:
    if not isinstance(event, dp_accounting.DpEvent):
        raise _validate.type_error("event", event, "a dp_accounting.DpEvent")
    if depth > MAX_DEPTH:
        raise ValueError(
            f"`event` must not be nested more than {MAX_DEPTH} deep. "
            f"Received: event={type(event).__name__}(...)"
        )
    kind = type(event)
    if kind not in EVENT_FIELDS:
        supported = ", ".join(sorted(k.__name__ for k in EVENT_FIELDS))
        raise _validate.value_error("event", event, f"one that can be accounted for ({supported})")
    if kind in (dp_accounting.GaussianDpEvent, dp_accounting.LaplaceDpEvent):
        return kind(_validate.non_negative("noise_multiplier", event.noise_multiplier))
    if kind is dp_accounting.dp_event.ZCDpEvent:
        return kind(
            rho=_validate.non_negative("rho", event.rho), xi=_validate.non_negative("xi", event.xi)
        )
    if kind is dp_accounting.PoissonSampledDpEvent:
        copy = kind(
            _validate.probability("sampling_probability", event.sampling_probability),
            _checked(event.event, depth + 1),
        )
        _inverse_noise(copy.event, 1, copy)  # only to refuse what is not Gaussian
        return copy
    if kind is dp_accounting.SelfComposedDpEvent:
        count = _validate.integer("count", event.count, minimum=0, maximum=MAX_COUNT)
        return kind(_checked(event.event, depth + 1), count)
    if kind is dp_accounting.ComposedDpEvent:
        if isinstance(event.events, str) or not hasattr(event.events, "__iter__"):
            raise _validate.type_error("events", event.events, "a sequence of events")
        return kind([_checked(e, depth + 1) for e in event.events])
    return kind()


def leaves(event: dp_accounting.DpEvent, count: int = 1) -> dict[Leaf, int]:
    """Reduces an event that is composed `count` times to elementary releases.

    Releases that reveal nothing (no-ops, counts and sampling probabilities of zero) vanish.
    Several Gaussian releases on the same Poisson sample become one with as much noise.

    Args:
        event: an event that `checked` has returned.
        count: how often it is applied. Defaults to 1.

    Returns:
        How often each elementary release is applied.
    """
    if count == 0 or isinstance(event, dp_accounting.NoOpDpEvent):
        return {}
    if isinstance(event, dp_accounting.SelfComposedDpEvent):
        return leaves(event.event, event.count * count)
    if isinstance(event, dp_accounting.ComposedDpEvent):
        total: dict[Leaf, int] = {}
        for inner in event.events:
            for leaf, times in leaves(inner, count).items():
                total[leaf] = total.get(leaf, 0) + times
        return total
    simple = _simplified(event)
    return {} if simple is None else {Leaf(repr(simple), simple): count}


def is_non_private(leaf: Leaf) -> bool:
    """Tells whether a release has no guarantee at all.

    Args:
        leaf: the release.

    Returns:
        `True` for a release with infinite epsilon at every delta below 1.
    """
    return isinstance(leaf.event, dp_accounting.NonPrivateDpEvent)


def _simplified(event: dp_accounting.DpEvent) -> dp_accounting.DpEvent | None:
    """Returns the event an accountant sees, or None if nothing is revealed."""
    if isinstance(event, dp_accounting.GaussianDpEvent):
        return _with_noise(dp_accounting.GaussianDpEvent, event.noise_multiplier)
    if isinstance(event, dp_accounting.LaplaceDpEvent):
        return _with_noise(dp_accounting.LaplaceDpEvent, event.noise_multiplier)
    if isinstance(event, dp_accounting.PoissonSampledDpEvent):
        q = event.sampling_probability
        if isinstance(event.event, dp_accounting.GaussianDpEvent):
            sigma = event.event.noise_multiplier
        else:
            inverse = _inverse_noise(event.event, 1, event)
            if inverse == 0.0:
                return None
            sigma = 1.0 / inverse
        if q == 0.0:
            return None
        gaussian = _with_noise(dp_accounting.GaussianDpEvent, sigma)
        if q > _LARGEST_SAMPLING or isinstance(gaussian, dp_accounting.NonPrivateDpEvent):
            return gaussian
        return dp_accounting.PoissonSampledDpEvent(max(q, _SMALLEST_SAMPLING), gaussian)
    if isinstance(event, dp_accounting.dp_event.ZCDpEvent):
        return event if event.rho > 0.0 or event.xi > 0.0 else None
    return event


def _with_noise(kind: type[dp_accounting.DpEvent], noise: float) -> dp_accounting.DpEvent:
    if noise < _SMALLEST_NOISE:
        return dp_accounting.NonPrivateDpEvent()
    return kind(min(noise, _LARGEST_NOISE))


def _inverse_noise(
    event: dp_accounting.DpEvent, count: int, sampled: dp_accounting.DpEvent
) -> float:
    """Returns 1/sigma of the one Gaussian as informative as all in `event`, applied together."""
    if isinstance(event, dp_accounting.GaussianDpEvent):
        sigma = event.noise_multiplier
        return math.sqrt(count) / sigma if count and sigma else (math.inf if count else 0.0)
    if isinstance(event, dp_accounting.SelfComposedDpEvent):
        return _inverse_noise(event.event, count * event.count, sampled)
    if isinstance(event, dp_accounting.ComposedDpEvent):
        return math.hypot(*(_inverse_noise(e, count, sampled) for e in event.events))
    raise _validate.value_error(
        "event", sampled, "Gaussian, or a composition of Gaussians, inside a Poisson sample"
    )
