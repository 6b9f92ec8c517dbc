"""Two recordings of a pipeline, on data that differ in one example: what is wrong with them."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterator

import dp_accounting
import numpy as np
from dp_accounting import dp_event
from scipy import stats
from scipy.spatial import distance

from tfdp import accounting
from tfdp.accounting import events
from tfdp.auditing.crossings import Addition, Recording

#: What rounding may add to a distance: to the sensitivity, and to the norm of what was summed.
_OF_SENSITIVITY, _OF_NORM = 1e-4, 4e-6
#: How seldom a test of the noise may raise a false alarm.
_FALSE_ALARM = 1e-9
_GAUSSIAN = dp_accounting.GaussianDpEvent, dp_event.TruncatedSubsampledGaussianDpEvent


@dataclasses.dataclass(frozen=True)
class Crossing:
    """Values that noise was added to, once.

    Attributes:
        place: Number of the place in the pipeline, in the order of first use.
        distance: L2 distance of the values without noise on the two data sets.
        sensitivity: What was declared for the place; ``None`` if nothing was.
        stddev: Standard deviation of the noise, all replicas together.
        numbers: How many numbers.

    Example:
        >>> import keras, numpy as np, tfdp
        >>> x, y = np.eye(8)[:, :4], np.zeros(8, "int32")
        >>> def pipeline():
        ...     private = tfdp.make_private(keras.Sequential([keras.layers.Dense(2)]))
        ...     private.compile(
        ...         tfdp.optimizers.VectorizedDPKerasSGDOptimizer(0.5, noise_multiplier=2.0),
        ...         keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        ...     private.fit(x, y, batch_size=8, verbose=0)
        ...     return private
        >>> (crossing,) = tfdp.auditing.compare_neighbours(pipeline, sensitivities=[0.5]).crossings
        >>> crossing.distance <= crossing.sensitivity * 1.0001, crossing.stddev, crossing.numbers
        (True, 1.0, 10)
    """

    place: int
    distance: float
    sensitivity: float | None
    stddev: float
    numbers: int


def crossings_of(first: Recording, second: Recording, declared: list[float]) -> list[Crossing]:
    """What crosses in both runs, as far as there are as many crossings."""
    pairs = zip(_places(first), first.crossings, second.crossings, strict=False)
    return [_crossing(place, declared, one, other) for place, one, other in pairs]


def _crossing(
    place: int, declared: list[float], one: list[Addition], other: list[Addition]
) -> Crossing:
    same = one[0].shapes == other[0].shapes
    apart = np.linalg.norm(_total(one, "before") - _total(other, "before")) if same else math.inf
    return Crossing(
        place=place,
        distance=float(apart),
        sensitivity=declared[place] if place < len(declared) else None,
        stddev=_stddev(one),
        numbers=one[0].before.size,
    )


def _places(recording: Recording) -> list[int]:
    """The place of each crossing."""
    numbers: dict[tuple, int] = {}
    return [
        numbers.setdefault((c[0].source, c[0].stddev, c[0].shapes), len(numbers))
        for c in recording.crossings
    ]


def _total(crossing: list[Addition], which: str) -> np.ndarray:
    """The sum over replicas."""
    return np.sum([getattr(addition, which) for addition in crossing], axis=0)


def _stddev(crossing: list[Addition]) -> float:
    """Standard deviation of the noise on the sum over replicas."""
    return math.sqrt(sum(addition.stddev**2 / addition.replicas for addition in crossing))


def of_distances(
    crossings: list[Crossing], first: Recording, declared: list[float]
) -> Iterator[str]:
    """Values that one example moves too far, or that it does not reach."""
    places = len({crossing.place for crossing in crossings})
    if places != len(declared):
        yield f"noise was added at {places} places, sensitivities were declared for {len(declared)}"
    # Sums over the others are not the same to the last bit where one row is missing.
    rounding = [_OF_NORM * np.linalg.norm(_total(c, "before")) for c in first.crossings]
    for place, sensitivity in enumerate(declared[:places]):
        here = [
            (crossing.distance, more)
            for crossing, more in zip(crossings, rounding, strict=False)
            if crossing.place == place
        ]
        bound = sensitivity * (1 + _OF_SENSITIVITY)
        over = [distance for distance, more in here if not distance <= bound + more]
        if over:
            yield (
                f"place {place}: one example moved the values by {max(over):.6g}, more than the "
                f"declared sensitivity {sensitivity:.6g}, at {len(over)} of {len(here)} crossings"
            )
        elif all(distance <= more for distance, more in here):
            yield f"place {place}: the last example moved nothing, so nothing was shown"


def of_control_flow(
    first: Recording,
    second: Recording,
    ledger: accounting.PrivacyLedger,
    other_ledger: accounting.PrivacyLedger,
) -> Iterator[str]:
    """Crossings and charges that depend on the last example."""
    counts = len(first.crossings), len(second.crossings)
    if counts[0] != counts[1]:
        yield (
            f"control flow: noise was added {counts[0]} times with the last example and "
            f"{counts[1]} times without it"
        )
    for number, pair in enumerate(zip(first.crossings, second.crossings, strict=False)):
        kinds = [
            sorted((a.source, a.replica, a.stddev, a.replicas, a.shapes) for a in crossing)
            for crossing in pair
        ]
        if kinds[0] != kinds[1]:
            yield (
                f"control flow: crossing {number} is not the same with and without the last "
                "example: (source, replica, stddev, replicas, shapes) are "
                f"{kinds[0]} and {kinds[1]}"
            )
            break
    spent, other = ([(r.event, r.count) for r in book.releases] for book in (ledger, other_ledger))
    if spent != other:
        yield f"control flow: with the last example {spent} is charged, without it {other}"


def of_releases(released: list[np.ndarray], other: list[np.ndarray]) -> Iterator[str]:
    """Released values that differ although all noisy ones were the same."""
    differ = [
        number
        for number, (a, b) in enumerate(zip(released, other, strict=False))
        if (a.dtype, a.shape, a.tobytes()) != (b.dtype, b.shape, b.tobytes())
    ]
    if differ or len(released) != len(other):
        yield (
            f"{len(differ)} of {len(released)} released arrays differ, although all noisy values "
            "were the same: data go around the noise"
        )


def multipliers_charged(ledger: accounting.PrivacyLedger) -> collections.Counter[float]:
    """How many Gaussian events of each noise multiplier; -1 stands for other events."""
    found: collections.Counter[float] = collections.Counter()
    for release in ledger.releases:
        for leaf, count in events.leaves(release.event, release.count).items():
            event = getattr(leaf.event, "event", leaf.event)  # Of a sample, what is done to it.
            multiplier = -1.0
            if isinstance(event, _GAUSSIAN):
                multiplier = event.noise_multiplier
            elif isinstance(event, dp_accounting.NonPrivateDpEvent):
                multiplier = 0.0
            found[_rounded(multiplier)] += count
    return found


def multipliers_drawn(recording: Recording, declared: list[float]) -> collections.Counter[float]:
    """How many crossings of each noise multiplier, at places with a declared sensitivity."""
    return collections.Counter(
        _rounded(_stddev(crossing) / declared[place])
        for place, crossing in zip(_places(recording), recording.crossings, strict=True)
        if place < len(declared)
    )


def _rounded(multiplier: float) -> float:
    return float(f"{multiplier:.6g}")


def of_charges(
    charged: collections.Counter[float], drawn: collections.Counter[float]
) -> Iterator[str]:
    """Noise that was not charged, and charges without noise."""
    for multiplier in sorted({*charged, *drawn}):
        events_there, draws = charged[multiplier], drawn[multiplier]
        if multiplier < 0:
            yield f"{events_there} charged events are not Gaussian and cannot be checked"
        elif events_there != draws:
            yield (
                f"noise multiplier {multiplier:g}: {events_there} events were charged, and such "
                f"noise was drawn {draws} times"
            )


def of_noise(recording: Recording) -> Iterator[str]:
    """Noise that is not what was asked for."""
    by_place, by_size = collections.defaultdict(list), collections.defaultdict(list)
    for place, crossing in zip(_places(recording), recording.crossings, strict=True):
        stddev = crossing[0].stddev
        if stddev > 0:
            noise = (_total(crossing, "after") - _total(crossing, "before")) / stddev
            by_place[place].append(noise)
            by_size[noise.size].append(noise)
    for place, rows in by_place.items():
        noise = np.concatenate(rows)
        squares = float(np.sum(noise**2))
        law = stats.chi2(noise.size)
        if 2 * min(law.cdf(squares), law.sf(squares)) < _FALSE_ALARM:
            yield (
                f"place {place}: the noise has {math.sqrt(squares / noise.size):.4g} times the "
                "standard deviation that was asked for"
            )
        elif stats.kstest(noise, "norm").pvalue < _FALSE_ALARM:
            yield f"place {place}: the noise is not normal"
    for size, rows in by_size.items():
        if _alike(np.array(rows)):
            yield f"noise on {size} numbers is not drawn anew each time"


def _alike(rows: np.ndarray) -> bool:
    """Whether rows are nearer to each other than independent normal numbers are."""
    size = math.sqrt(np.mean(rows**2))
    if len(rows) < 2 or size == 0:
        return False
    rows = rows / size  # A wrong standard deviation is a fault of its own.
    count = len(rows) // 2
    pairs = (rows[: 2 * count : 2] - rows[1 : 2 * count : 2]) / math.sqrt(2)
    together = stats.chi2.cdf(np.sum(pairs**2), pairs.size)
    some = rows[:, :100]  # A hundred numbers tell enough.
    nearest = distance.pdist(some, "sqeuclidean").min() / 2
    one = stats.chi2.cdf(nearest, some.shape[1]) * len(rows) * (len(rows) - 1) / 2
    return min(one, together) < _FALSE_ALARM
