"""A pipeline on neighbouring data: what noise hides, against what is declared and charged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from matplotlib.figure import Figure, SubFigure

from tfdp import _validate, accounting
from tfdp.auditing import result, violations
from tfdp.auditing.crossings import recorded
from tfdp.auditing.violations import Crossing
from tfdp.private_model import PrivateModel

_NOT_PRIVATE = "the randomness was known: run by tfdp.auditing.compare_neighbours"


@dataclasses.dataclass(frozen=True)
class NeighbourReport(result.Result):
    """The result of `compare_neighbours`.

    Attributes:
        crossings: What noise was added to, in order.
        charged: Noise multipliers of the charged events, and how many there are of each.
        drawn: The same of the crossings: the noise over the declared sensitivity.
        violations: What is wrong, in words; empty if nothing was found.

    Example:
        >>> import keras, numpy as np, tfdp
        >>> x, y = np.eye(8)[:, :4], np.zeros(8, "int32")
        >>> def pipeline():  # It is told a smaller sensitivity than its clip norm.
        ...     private = tfdp.make_private(keras.Sequential([keras.layers.Dense(2)]))
        ...     private.compile(
        ...         tfdp.optimizers.VectorizedDPKerasSGDOptimizer(0.5, noise_multiplier=2.0),
        ...         keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        ...     private.fit(x, y, batch_size=8, verbose=0)
        ...     return private
        >>> report = compare_neighbours(pipeline, sensitivities=[0.1])
        >>> report.passed, len(report.crossings), report.charged
        (False, 1, ((2.0, 1),))
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

    A *place* is one object of `tfdp.noise` with one standard deviation and one list of shapes;
    places are numbered in the order in which they are first used. Training is one place,
    `tfdp.callbacks.NoisyThreshold` another, `tfdp.saliency.select` one, `tfdp.statistics.measure`
    one or, with directions, two.

    Examples are left out where tfdp draws Poisson samples (``fit`` on arrays, a `PoissonDataset`,
    `select`, `NoisyThreshold`, calls of `tfdp.sampling.poisson_indices`) and in `measure`; of data
    sampled elsewhere (`declare`) the first condition says that nothing was shown. Make the last
    example an unusual one, whose gradient is longer than the clip norm. The others keep their
    random numbers, such as those of dropout: rows are drawn one after another, and the last of a
    batch is left out. Noise is seen where `tfdp.noise` adds it; other noise, as that of
    ``mechanism="exponential"``, is not.

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
    private, and their ledgers are marked so. So is the noise of anything that trains in the same
    process meanwhile: run it in a process of its own. The global random seeds of Keras are set.

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
        - Ding, Wang, Wang, Zhang, Kifer 2018, "Detecting Violations of Differential Privacy",
          arXiv:1805.10277: counterexamples from pairs of neighbouring inputs.
        - Tramer et al. 2022, "Debugging Differential Privacy: A Case Study for Privacy Auditing",
          arXiv:2202.12219: noise that was too small by a slip in the code.
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
    crossings = violations.crossings_of(first, second, declared)
    charged = violations.multipliers_charged(ledger)
    drawn = violations.multipliers_drawn(first, declared)
    found = [
        *violations.of_distances(crossings, first, declared),
        *violations.of_control_flow(first, second, ledger, other_ledger),
        *violations.of_releases(released, other_released),
        *violations.of_charges(charged, drawn),
        *violations.of_noise(first),
    ]
    for spent in (ledger, other_ledger):
        spent.mark_not_private(_NOT_PRIVATE)
    return NeighbourReport(
        crossings=tuple(crossings),
        charged=tuple(sorted(charged.items())),
        drawn=tuple(sorted(drawn.items())),
        violations=tuple(found),
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
