"""A pipeline on neighbouring data: what noise hides, against what is declared and charged."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import dp_accounting
import keras
import numpy as np
from dp_accounting import dp_event
from matplotlib.figure import Figure, SubFigure
from scipy import stats
from scipy.spatial import distance

from tfdp import _validate, accounting
from tfdp.accounting import events
from tfdp.auditing import result
from tfdp.auditing.crossings import Addition, Recording, recorded
from tfdp.private_model import PrivateModel

#: What rounding may add to a distance: to the sensitivity, and to the norm of what was summed.
_OF_SENSITIVITY, _OF_NORM = 1e-4, 4e-6
#: How seldom a test of the noise may raise a false alarm.
_FALSE_ALARM = 1e-9
_GAUSSIAN = dp_accounting.GaussianDpEvent, dp_event.TruncatedSubsampledGaussianDpEvent
_NOT_PRIVATE = "the randomness was known: run by tfdp.auditing.compare_neighbours"


@dataclasses.dataclass(frozen=True)
class Crossing:
    """Values that noise was added to, once.

    Attributes:
        place: Number of the place in the pipeline, in the order of first use.
        distance: L2 distance of the values without noise on the two data sets.
        sensitivity: What was declared for the place; ``None`` if nothing was.
        stddev: Standard deviation of the noise, all replicas together.
        numbers: How many numbers.
    """

    place: int
    distance: float
    sensitivity: float | None
    stddev: float
    numbers: int


@dataclasses.dataclass(frozen=True)
class NeighbourReport(result.Result):
    """The result of `compare_neighbours`.

    Attributes:
        crossings: What noise was added to, in order.
        charged: Noise multipliers of the charged events, and how many there are of each.
        drawn: The same of the crossings: the noise over the declared sensitivity.
        violations: What is wrong, in words; empty if nothing was found.
    """

    crossings: tuple[Crossing, ...]
    charged: tuple[tuple[float, int], ...]
    drawn: tuple[tuple[float, int], ...]
    violations: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing was found to be wrong."""
        return not self.violations

    def __str__(self) -> str:
        lines = [
            f"neighbours: noise was added {len(self.crossings)} times, "
            f"{sum(count for _, count in self.charged)} events were charged"
        ]
        for place in sorted({crossing.place for crossing in self.crossings}):
            here = [crossing for crossing in self.crossings if crossing.place == place]
            farthest = max(crossing.distance for crossing in here)
            declared = "nothing" if here[0].sensitivity is None else f"{here[0].sensitivity:.6g}"
            lines.append(
                f"  place {place}: {len(here)} times {here[0].numbers} numbers; one example moved "
                f"them by up to {farthest:.6g}, declared is {declared}"
            )
        return "\n".join(lines + [f"  VIOLATION: {text}" for text in self.violations])

    def draw(self, figure: Figure | SubFigure) -> None:
        """The distance at each crossing, over the declared sensitivity."""
        axes = figure.subplots()
        for place in sorted({crossing.place for crossing in self.crossings}):
            points = [
                (number, crossing.distance / crossing.sensitivity)
                for number, crossing in enumerate(self.crossings)
                if crossing.place == place and crossing.sensitivity is not None
            ]
            if points:
                axes.plot(*zip(*points, strict=True), ".", label=f"place {place}")
        axes.axhline(1.0, color="0.4", linestyle="--", label="declared")
        axes.set(title="How far one example moved what noise is added to", xlabel="crossing")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)
        result.tidy(axes)


def compare_neighbours(
    pipeline: Callable[[], Any], *, sensitivities: Sequence[float], seed: int = 0
) -> NeighbourReport:
    """Runs a pipeline on neighbouring data and compares all that crosses the noise boundary.

    The pipeline runs twice with the same randomness: as it is, and with the last example of its
    private data left out of every sample. In the second run the noisy values of the first take the
    place of its own, so that both runs have released the same at every moment, as in adaptive
    composition. Then all must hold:

    1. *Sensitivity.* At each crossing the values without noise differ by at most the declared
       sensitivity, in the L2 norm over all tensors together, summed over replicas. At each place
       the example moves something; else nothing was shown.
    2. *Control flow.* Both runs cross equally often, in the same order, with the same shapes and
       the same noise, and charge the same events.
    3. *Nothing goes around the noise.* What is released is the same to the bit in both runs.
    4. *Charges.* The noise multipliers of the charged events are those of the crossings (standard
       deviation over declared sensitivity), equally many of each.
    5. *Noise.* Noisy values less those without noise are normal with the standard deviation that
       was asked for, all replicas together, and no two draws are alike. A right one is taken for
       wrong with a probability of about 1e-9 for each test.

    A *place* is one `tfdp.noise.GaussianNoise` object with one standard deviation and one list of
    shapes; places are numbered in the order in which they are first used. Training is one place,
    `tfdp.callbacks.NoisyThreshold` another, `tfdp.saliency.select` one, `tfdp.statistics.measure`
    one or, with directions, two.

    Examples are left out where tfdp draws Poisson samples (``fit`` on arrays, a `PoissonDataset`,
    `select`, `NoisyThreshold`, calls of `tfdp.sampling.poisson_indices`) and in `measure`. Make the
    last example an unusual one, whose gradient is longer than the clip norm. The others keep their
    random numbers, such as those of dropout: rows are drawn one after another, and the last of a
    batch is left out.

    Args:
        pipeline: A function without arguments that does everything anew, from making the model
            on. It returns a `tfdp.PrivateModel`, whose weights and optimizer's state are what is
            released; or a pair ``(ledger, released)`` of a `tfdp.accounting.PrivacyLedger` and
            nested arrays, numbers and texts.
        sensitivities: The declared L2 sensitivity of each place, in order, each positive.
        seed: Of the randomness of both runs. Defaults to 0.

    Returns:
        A `NeighbourReport`. `print` it.

    Raises:
        TypeError: If an argument, or what the pipeline returns, has the wrong type.
        ValueError: If a number is out of range.

    Formal guarantee: none; a check. What it finds is wrong for these data and this seed, up to
    rounding and false alarms; what it does not find may be there all the same. All values are kept
    in memory, so models should be small. The noise of both runs is known: the models are not
    private, and their ledgers are marked so. The global random seeds of Keras are set.

    Example:
        >>> import keras, numpy as np, tfdp
        >>> x, y = np.random.default_rng(0).normal(size=(20, 4)), np.zeros(20, "int32")
        >>> x[-1] *= 4
        >>> def pipeline():
        ...     private = tfdp.make_private(keras.Sequential([keras.layers.Dense(2)]))
        ...     private.compile(
        ...         tfdp.optimizers.VectorizedDPKerasSGDOptimizer(0.5, noise_multiplier=2.0),
        ...         keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        ...     private.fit(x, y, batch_size=16, verbose=0)
        ...     return private
        >>> print(compare_neighbours(pipeline, sensitivities=[0.5]))
        neighbours: noise was added 2 times, 2 events were charged
          place 0: 2 times 10 numbers; one example moved them by up to 0.5, declared is 0.5

    References:
        Ding, Wang, Wang, Zhang, Kifer 2018, "Detecting Violations of Differential Privacy",
        arXiv:1805.10277: counterexamples from pairs of neighbouring inputs.
    """
    if not callable(pipeline):
        raise _validate.type_error("pipeline", pipeline, "a function without arguments")
    if isinstance(sensitivities, str) or not isinstance(sensitivities, Sequence):
        raise _validate.type_error("sensitivities", sensitivities, "a list of numbers")
    declared = [_validate.positive("sensitivities", value) for value in sensitivities]
    seed = _validate.integer("seed", seed, minimum=0, maximum=2**32 - 1)
    with recorded(seed) as first:
        ledger, released = _outcome(pipeline())
    with recorded(seed, without_last=True, replayed=first) as second:
        other_ledger, other_released = _outcome(pipeline())
    places = _places(first)
    crossings = [
        _crossing(place, declared, *pair)
        for place, *pair in zip(places, first.crossings, second.crossings, strict=False)
    ]
    charged, drawn = _charged(ledger), _drawn(places, first, declared)
    violations = [
        *_wrong_distances(crossings, first, declared),
        *_wrong_flow(first, second, ledger, other_ledger),
        *_wrong_releases(released, other_released),
        *_wrong_charges(charged, drawn),
        *_wrong_noise(places, first),
    ]
    for spent in (ledger, other_ledger):
        spent.mark_not_private(_NOT_PRIVATE)
    return NeighbourReport(
        crossings=tuple(crossings),
        charged=tuple(sorted(charged.items())),
        drawn=tuple(sorted(drawn.items())),
        violations=tuple(violations),
    )


def _outcome(returned: Any) -> tuple[accounting.PrivacyLedger, list[np.ndarray]]:
    """The ledger and what is released, of what a pipeline returned."""
    if isinstance(returned, PrivateModel):
        state = [variable.numpy() for variable in returned.optimizer.variables]
        returned = returned.ledger, [*returned.get_weights(), *state]
    expected = "a function that returns a PrivateModel or (ledger, released)"
    if not (isinstance(returned, tuple) and len(returned) == 2):
        raise _validate.type_error("pipeline", returned, expected)
    ledger, released = returned
    arrays = [np.asarray(value) for value in keras.tree.flatten(released)]
    if not isinstance(ledger, accounting.PrivacyLedger) or any(a.dtype.hasobject for a in arrays):
        raise _validate.type_error("pipeline", returned, expected)
    return ledger, arrays


def _places(recording: Recording) -> list[int]:
    """The place of each crossing."""
    numbers: dict[tuple, int] = {}
    return [
        numbers.setdefault((c[0].source, c[0].stddev, c[0].shapes), len(numbers))
        for c in recording.crossings
    ]


def _total(crossing: list[Addition], which: str) -> np.ndarray:
    return np.sum([getattr(addition, which) for addition in crossing], axis=0)


def _stddev(crossing: list[Addition]) -> float:
    """Standard deviation of the noise on the sum over replicas."""
    return math.sqrt(sum(addition.stddev**2 / addition.replicas for addition in crossing))


def _crossing(
    place: int, declared: list[float], first: list[Addition], second: list[Addition]
) -> Crossing:
    before, other = _total(first, "before"), _total(second, "before")
    same = first[0].shapes == second[0].shapes
    return Crossing(
        place=place,
        distance=float(np.linalg.norm(before - other)) if same else math.inf,
        sensitivity=declared[place] if place < len(declared) else None,
        stddev=_stddev(first),
        numbers=before.size,
    )


def _wrong_distances(
    crossings: list[Crossing], first: Recording, declared: list[float]
) -> Iterator[str]:
    places = len({crossing.place for crossing in crossings})
    if places != len(declared):
        yield f"noise was added at {places} places, sensitivities were declared for {len(declared)}"
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


def _wrong_flow(
    first: Recording,
    second: Recording,
    ledger: accounting.PrivacyLedger,
    other_ledger: accounting.PrivacyLedger,
) -> Iterator[str]:
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


def _wrong_releases(released: list[np.ndarray], other: list[np.ndarray]) -> Iterator[str]:
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


def _charged(ledger: accounting.PrivacyLedger) -> collections.Counter[float]:
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


def _drawn(
    places: list[int], recording: Recording, declared: list[float]
) -> collections.Counter[float]:
    return collections.Counter(
        _rounded(_stddev(crossing) / declared[place])
        for place, crossing in zip(places, recording.crossings, strict=True)
        if place < len(declared)
    )


def _rounded(multiplier: float) -> float:
    return float(f"{multiplier:.6g}")


def _wrong_charges(
    charged: collections.Counter[float], drawn: collections.Counter[float]
) -> Iterator[str]:
    for multiplier in sorted({*charged, *drawn}):
        events_there, draws = charged[multiplier], drawn[multiplier]
        if multiplier < 0:
            yield f"{events_there} charged events are not Gaussian and cannot be checked"
        elif events_there != draws:
            yield (
                f"noise multiplier {multiplier:g}: {events_there} events were charged, and such "
                f"noise was drawn {draws} times"
            )


def _wrong_noise(places: list[int], recording: Recording) -> Iterator[str]:
    by_place, by_size = collections.defaultdict(list), collections.defaultdict(list)
    for place, crossing in zip(places, recording.crossings, strict=True):
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
