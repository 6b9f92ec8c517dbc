"""What is charged: DP events, checked, copied and reduced to the releases an accountant composes.

An event only *describes* a mechanism (`dp_accounting.DpEvent`); the mathematics is elsewhere.
This module refuses, before anything is charged, an event that no accountant here can bound.
"""

import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Mapping

import dp_accounting
from dp_accounting.dp_event import TruncatedSubsampledGaussianDpEvent
from scipy import stats

from tfdp import _validate

# The events supported, with their fields; class and field names are also what is saved.
EVENT_FIELDS: dict[type[dp_accounting.DpEvent], tuple[str, ...]] = {
    dp_accounting.NoOpDpEvent: (),
    dp_accounting.NonPrivateDpEvent: (),
    dp_accounting.GaussianDpEvent: ("noise_multiplier",),
    dp_accounting.LaplaceDpEvent: ("noise_multiplier",),
    dp_accounting.dp_event.ZCDpEvent: ("rho", "xi"),
    dp_accounting.PoissonSampledDpEvent: ("sampling_probability", "event"),
    dp_accounting.SampledWithoutReplacementDpEvent: (
        "source_dataset_size",
        "sample_size",
        "event",
    ),
    TruncatedSubsampledGaussianDpEvent: (
        "dataset_size",
        "sampling_probability",
        "truncated_batch_size",
        "noise_multiplier",
    ),
    dp_accounting.SelfComposedDpEvent: ("event", "count"),
    dp_accounting.ComposedDpEvent: ("events",),
}

SAMPLED = (
    dp_accounting.PoissonSampledDpEvent,
    dp_accounting.SampledWithoutReplacementDpEvent,
    TruncatedSubsampledGaussianDpEvent,
)

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
        event: the mechanism: non-private, Gaussian, Laplace, zCDP or a Gaussian on a sample
            (Poisson, of fixed size, or Poisson cut to a capacity).
    """

    key: str
    event: dp_accounting.DpEvent = dataclasses.field(compare=False)


def checked(event: dp_accounting.DpEvent, name: str = "event") -> dp_accounting.DpEvent:
    """Copies an event after checking that it can be accounted for.

    Args:
        event: the event to check.
        name: what errors call it. Defaults to `"event"`.

    Returns:
        An equal event that holds only plain Python numbers and shares no list with the argument.

    Raises:
        TypeError: if it is not a `dp_accounting.DpEvent`, or a field has the wrong type.
        ValueError: if the event, one nested in it, or a parameter is not supported.
    """
    return _checked(event, depth=0, name=name)


def _checked(
    event: dp_accounting.DpEvent, depth: int, name: str = "event"
) -> dp_accounting.DpEvent:
    if not isinstance(event, dp_accounting.DpEvent):
        raise _validate.type_error(name, event, "a dp_accounting.DpEvent")
    if depth > MAX_DEPTH:
        raise ValueError(
            f"`event` must not be nested more than {MAX_DEPTH} deep. "
            f"Received: event={type(event).__name__}(...)"
        )
    kind = type(event)
    if kind not in EVENT_FIELDS:
        supported = ", ".join(sorted(k.__name__ for k in EVENT_FIELDS))
        raise _validate.value_error(name, event, f"one that can be accounted for ({supported})")
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
    if kind is dp_accounting.SampledWithoutReplacementDpEvent:
        size = _size("source_dataset_size", event.source_dataset_size)
        copy = kind(
            size,
            _size("sample_size", event.sample_size, size),
            _checked(event.event, depth + 1),
        )
        _inverse_noise(copy.event, 1, copy)
        return copy
    if kind is TruncatedSubsampledGaussianDpEvent:
        return kind(
            _size("dataset_size", event.dataset_size),
            _validate.probability("sampling_probability", event.sampling_probability),
            _size("truncated_batch_size", event.truncated_batch_size),
            _validate.non_negative("noise_multiplier", event.noise_multiplier),
        )
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
    Several Gaussian releases on the same sample become one with as much noise. A sample that is
    the whole data set is no sample, a capacity that cannot be exceeded none either.

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


@functools.lru_cache(maxsize=1024)
def without_capacity(leaf: Leaf) -> tuple[Leaf, float]:
    """Splits a release into what happens while its batch fits, and the chance that it does not.

    Args:
        leaf: the release.

    Returns:
        The release without a capacity, and an upper bound on the probability that the capacity
        plays a part: the release itself and 0 where there is none.
    """
    event = leaf.event
    if not isinstance(event, TruncatedSubsampledGaussianDpEvent):
        return leaf, 0.0
    (poisson,) = leaves(
        dp_accounting.PoissonSampledDpEvent(
            event.sampling_probability, dp_accounting.GaussianDpEvent(event.noise_multiplier)
        )
    )
    return poisson, _overflow(event)


def with_less_noise(leaf: Leaf, share: float) -> Leaf:
    """Scales the noise of a Gaussian release, sampled by Poisson or not at all.

    Args:
        leaf: the release.
        share: by what to multiply the noise, in (0, 1].

    Returns:
        The release with less noise.
    """
    event = leaf.event
    gaussian = event.event if isinstance(event, dp_accounting.PoissonSampledDpEvent) else event
    quieter = dp_accounting.GaussianDpEvent(share * gaussian.noise_multiplier)
    if gaussian is not event:
        quieter = dp_accounting.PoissonSampledDpEvent(event.sampling_probability, quieter)
    (result,) = leaves(quieter)
    return result


@functools.lru_cache(maxsize=1024)
def without_fixed_size(leaf: Leaf) -> Leaf:
    """Returns the unsampled release that costs at least as much as one on a fixed-size sample.

    Args:
        leaf: the release.

    Returns:
        The Gaussian on the whole data set, or the release itself if its sample is of another kind.
    """
    if not isinstance(leaf.event, dp_accounting.SampledWithoutReplacementDpEvent):
        return leaf
    (gaussian,) = leaves(leaf.event.event)
    return gaussian


def replaced(counts: Mapping[Leaf, int], function: Callable[[Leaf], Leaf]) -> dict[Leaf, int]:
    """Replaces every release, adding up those that become equal.

    Args:
        counts: how often each release is made.
        function: from a release to the one in its place.

    Returns:
        How often each of the new releases is made.
    """
    total: dict[Leaf, int] = {}
    for leaf, count in counts.items():
        leaf = function(leaf)
        total[leaf] = total.get(leaf, 0) + count
    return total


def is_non_private(leaf: Leaf) -> bool:
    """Tells whether a release has no guarantee at all.

    Args:
        leaf: the release.

    Returns:
        `True` for a release with infinite epsilon at every delta below 1.
    """
    return _is_non_private(leaf.event)


def _is_non_private(event: dp_accounting.DpEvent) -> bool:
    return isinstance(event, dp_accounting.NonPrivateDpEvent)


def _simplified(event: dp_accounting.DpEvent) -> dp_accounting.DpEvent | None:
    """Returns the event an accountant sees, or None if nothing is revealed."""
    if isinstance(event, dp_accounting.GaussianDpEvent):
        return _with_noise(dp_accounting.GaussianDpEvent, event.noise_multiplier)
    if isinstance(event, dp_accounting.LaplaceDpEvent):
        return _with_noise(dp_accounting.LaplaceDpEvent, event.noise_multiplier)
    if isinstance(event, dp_accounting.PoissonSampledDpEvent):
        return _poisson(event.sampling_probability, _noise_inside(event))
    if isinstance(event, dp_accounting.SampledWithoutReplacementDpEvent):
        size, sigma = event.sample_size, _noise_inside(event)
        if size == 0 or math.isinf(sigma):
            return None
        gaussian = _with_noise(dp_accounting.GaussianDpEvent, sigma)
        if size == event.source_dataset_size or _is_non_private(gaussian):
            return gaussian
        return dp_accounting.SampledWithoutReplacementDpEvent(
            event.source_dataset_size, size, gaussian
        )
    if isinstance(event, TruncatedSubsampledGaussianDpEvent):
        poisson = _poisson(event.sampling_probability, event.noise_multiplier)
        if poisson is None or event.truncated_batch_size == 0:
            return None
        if _is_non_private(poisson) or _overflow(event) == 0.0:
            return poisson
        sampled = isinstance(poisson, dp_accounting.PoissonSampledDpEvent)
        return TruncatedSubsampledGaussianDpEvent(
            event.dataset_size,
            poisson.sampling_probability if sampled else 1.0,
            event.truncated_batch_size,
            (poisson.event if sampled else poisson).noise_multiplier,
        )
    if isinstance(event, dp_accounting.dp_event.ZCDpEvent):
        return event if event.rho > 0.0 or event.xi > 0.0 else None
    return event


def _overflow(event: TruncatedSubsampledGaussianDpEvent) -> float:
    """Bounds the chance that the capacity plays a part in telling neighbours apart.

    It does so when the *other* examples alone fill it: then one example more pushes another out.
    The larger of two neighbours has at most one example more than `dataset_size`, so the others
    are at most that many. A data set no larger than the capacity is never cut at all.
    """
    size, capacity = event.dataset_size, event.truncated_batch_size
    if capacity >= size:
        return 0.0
    return float(stats.binom.sf(capacity - 1, size, event.sampling_probability))


def _poisson(q: float, sigma: float) -> dp_accounting.DpEvent | None:
    if q == 0.0 or math.isinf(sigma):
        return None
    gaussian = _with_noise(dp_accounting.GaussianDpEvent, sigma)
    if q > _LARGEST_SAMPLING or _is_non_private(gaussian):
        return gaussian
    return dp_accounting.PoissonSampledDpEvent(max(q, _SMALLEST_SAMPLING), gaussian)


def _noise_inside(sampled: dp_accounting.DpEvent) -> float:
    """Returns the noise of the one Gaussian inside a sample, infinite if nothing is revealed."""
    if isinstance(sampled.event, dp_accounting.GaussianDpEvent):
        return sampled.event.noise_multiplier
    inverse = _inverse_noise(sampled.event, 1, sampled)
    return 1.0 / inverse if inverse else math.inf


def _size(name: str, value: int, maximum: int = MAX_COUNT) -> int:
    return _validate.integer(name, value, minimum=0, maximum=maximum)


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
        "event", sampled, "Gaussian, or a composition of Gaussians, inside a sample"
    )
