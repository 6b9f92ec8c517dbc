"""One training step as the accounting sees it, and what such steps have spent."""

from __future__ import annotations

import dataclasses
import sys
import typing
from typing import Any

import dp_accounting
import tensorflow as tf

from tfdp import _replicas, accounting
from tfdp.accounting.statement import EMPTY_RELATION
from tfdp.optimizers import DPOptimizerMixin
from tfdp.sampling import Scheme


@dataclasses.dataclass(frozen=True)
class Companion:
    """A release that goes with every training step, such as a noisy score of its update.

    Attributes:
        event: The privacy event of one such release.
        description: What it is for.
        details: What the privacy statement says about it.
    """

    event: dp_accounting.DpEvent
    description: str
    details: dict[str, Any]


@typing.runtime_checkable
class Releasing(typing.Protocol):
    """A callback that releases something of the training data with each step."""

    def release_with_each_step(self, model: Any) -> Companion | None:
        """What it releases; asked before training, and charged before it is released.

        Args:
            model: The `tfdp.PrivateModel` that is to be trained.

        Returns:
            A `Companion`; ``None`` if nothing is released.
        """


@dataclasses.dataclass(frozen=True)
class Mechanism:
    """One training step as the accounting sees it.

    Attributes:
        scheme: How the batch was drawn.
        event: The privacy event of ``scheme.steps_per_pass`` steps: of one, unless data are
            shuffled.
        estimate: What the event would be with Poisson samples; ``None`` if it is that.
        noise_multiplier: The noise multiplier of the optimizer.
        num_groups: Groups whose examples are averaged before clipping; ``None``: each example is
            clipped by itself.
        details: What the privacy statement says about the step.
        companions: What else is released with every step.
    """

    scheme: Scheme
    event: dp_accounting.DpEvent
    estimate: dp_accounting.DpEvent | None
    noise_multiplier: float
    num_groups: int | None
    details: dict[str, Any]
    companions: tuple[Companion, ...] = ()

    @property
    def whole_event(self) -> dp_accounting.DpEvent:
        """The event together with what goes with its steps."""
        if not self.companions:
            return self.event
        steps = self.scheme.steps_per_pass
        others = [dp_accounting.SelfComposedDpEvent(c.event, steps) for c in self.companions]
        return dp_accounting.ComposedDpEvent([self.event, *others])

    @property
    def expected_batch_size(self) -> int:
        """Expected number of examples of a step."""
        return self.scheme.expected_batch_size

    @property
    def random_groups(self) -> bool:
        """Whether each example draws its group; else groups are consecutive rows.

        They cannot be that where neighbouring data have an example more, which would shift all
        later ones.
        """
        return self.scheme.kind in ("poisson", "full_batch")

    @property
    def denominator(self) -> int:
        """The constant that the noisy sum of clipped gradients is divided by."""
        return self.num_groups or self.expected_batch_size


def mechanism_of(optimizer: DPOptimizerMixin, scheme: Scheme) -> Mechanism:
    """The mechanism of a step with an optimizer's parameters on batches drawn by a scheme.

    Raises:
        ValueError: If ``num_microbatches`` does not divide the batch size, or goes with a scheme
            for which its accounting is not known.
    """
    size = scheme.expected_batch_size
    groups = optimizer.num_microbatches
    if groups is not None and size % groups:
        raise ValueError(
            f"`num_microbatches` must divide the batch size {size}. "
            f"Received: num_microbatches={groups}"
        )
    if groups == size:
        groups = None
    if groups is not None and scheme.kind in ("truncated_poisson", "without_replacement"):
        raise ValueError(
            f"Groups of examples cannot be accounted for with sampling {scheme.kind!r}. "
            f"Received: num_microbatches={groups}"
        )
    event, estimate = events_of(
        scheme, optimizer.noise_multiplier, microbatch_size=1 if groups is None else size // groups
    )
    return Mechanism(
        scheme=scheme,
        event=event,
        estimate=estimate,
        noise_multiplier=optimizer.noise_multiplier,
        num_groups=groups,
        details=_details(optimizer, scheme, groups),
    )


def events_of(
    scheme: Scheme, noise_multiplier: float, microbatch_size: int = 1
) -> tuple[dp_accounting.DpEvent, dp_accounting.DpEvent | None]:
    """What is charged, and what Poisson samples would have cost, where they are not the same."""
    q = scheme.sampling_probability
    poisson = accounting.dp_sgd_event(noise_multiplier, q, microbatch_size=microbatch_size)
    if scheme.kind == "poisson":
        return poisson, None
    if scheme.kind == "truncated_poisson":
        # An example changes the sample of its own share alone.
        event = accounting.truncated_dp_sgd_event(
            noise_multiplier, q, scheme.share_examples, scheme.share_capacity
        )
        return event, None
    if scheme.kind == "without_replacement":
        event = accounting.fixed_size_dp_sgd_event(
            noise_multiplier, scheme.expected_batch_size, scheme.num_examples
        )
        return event, poisson
    # In a pass over shuffled data an example is in one batch: the pass is one release to it.
    event = accounting.dp_sgd_event(noise_multiplier, 1.0, microbatch_size=microbatch_size)
    if scheme.kind == "shuffled":
        return event, dp_accounting.SelfComposedDpEvent(poisson, scheme.steps_per_pass)
    return event, None


def _details(
    optimizer: DPOptimizerMixin, scheme: Scheme, groups: int | None
) -> dict[str, str | int | float | bool]:
    details: dict[str, Any] = {"sampling": scheme.in_words}
    if scheme.num_examples is not None:
        details["num_examples"] = scheme.num_examples
    details["expected_batch_size"] = scheme.expected_batch_size
    if scheme.fixed_size:
        details["neighbours"] = EMPTY_RELATION
    if scheme.kind == "shuffled":
        details["released_once_in"] = f"{scheme.steps_per_pass} steps"
    if groups is not None:
        details["num_microbatches"] = groups
        details["note"] = (
            "Examples are averaged in groups before clipping. That doubles the sensitivity, and "
            "the noise multiplier above is relative to it."
        )
    bound = optimizer.clip_bound
    details["l2_norm_clip"] = bound.sensitivity
    if bound.l2_norm_clip != bound.sensitivity:
        details["clipping"] = f"per layer: {bound.l2_norm_clip}"
    if bound.automatic_gamma is not None:
        details["automatic_gamma"] = bound.automatic_gamma
    if optimizer.secure_noise:
        details["noise"] = (
            "secure source: a discrete Gaussian on a grid, of the operating system's random bits; "
            "it is larger by what rounding to the grid adds to the sensitivity"
        )
    return details


class Segment:
    """Steps of one mechanism: counted where they run, charged where the ledger is asked.

    The counter belongs to the mechanism that a step was traced for, so that no step can be
    charged as another one, whichever of several compiled functions runs it.
    """

    def __init__(self, mechanism: Mechanism):
        self.mechanism = mechanism
        self.steps = _replicas.counter()
        self._pass_began = 0  # The step that the running pass over shuffled data began with.
        self._steps_of_pass = 0  # Those of it that had run when last looked.
        self._charged = 0  # Events of the passes since then.
        self._forgiven = 0

    def charge(self, ledger: accounting.PrivacyLedger) -> None:
        """Charges the steps that have run since the last time, and all of a pass that has begun."""
        steps_per_pass = self.mechanism.scheme.steps_per_pass
        with tf.init_scope():  # Also when a caller's own loop is being traced.
            steps = _replicas.value_of(self.steps)
        self._steps_of_pass = steps - self._forgiven - self._pass_began
        begun = -(-self._steps_of_pass // steps_per_pass) - self._charged
        if begun <= 0:
            return
        ledger.charge(
            self.mechanism.event,
            begun,
            description="DP-SGD training",
            details=self.mechanism.details,
            estimate=self.mechanism.estimate,
        )
        for companion in self.mechanism.companions:
            ledger.charge(
                companion.event,
                begun * steps_per_pass,
                description=companion.description,
                details=companion.details,
            )
        self._charged += begun

    def forgive(self) -> None:
        """Leaves one step out of what is charged; only where no guarantee is claimed any more."""
        self._forgiven += 1

    def end_pass(self) -> None:
        """Says that the next step begins a new pass, as in another ``fit``; charge before."""
        self._pass_began += self._steps_of_pass
        self._steps_of_pass = self._charged = 0

    @property
    def steps_already_charged(self) -> int:
        """Steps that the running pass still had when it was last charged."""
        return -self._steps_of_pass % self.mechanism.scheme.steps_per_pass


class Spending:
    """The ledger of a model, and the counters of the steps that are charged to it."""

    def __init__(self) -> None:
        self._ledger = accounting.PrivacyLedger()
        # Counters are no weights of the model: undoing weights (`EarlyStopping`, `set_weights`)
        # must not undo what was spent. Saved files carry the ledger instead.
        self._segments: list[Segment] = []
        self._allowed, self._allowed_for = 0, None  # The last answer of `remaining_steps`.

    @property
    def ledger(self) -> accounting.PrivacyLedger:
        """The ledger, with every step that has run."""
        for segment in self._segments:
            segment.charge(self._ledger)
        return self._ledger

    def join(self, ledger: accounting.PrivacyLedger) -> None:
        """Goes on with a ledger from a file. What was spent since it was written stays spent."""
        self._ledger = self.ledger.union(ledger)

    def segment_of(self, mechanism: Mechanism) -> Segment:
        """The counter of the steps of a mechanism."""
        for segment in self._segments:
            if segment.mechanism == mechanism:
                return segment
        self._segments.append(Segment(mechanism))
        return self._segments[-1]

    def close(self) -> None:
        """Charges all that ran, in order, before steps of another kind or another pass."""
        for segment in self._segments:
            segment.charge(self._ledger)
            segment.end_pass()

    def remaining_steps(
        self, mechanism: Mechanism, target_epsilon: float, delta: float, accountant: str
    ) -> int:
        """How many more steps of a mechanism stay within a budget; `sys.maxsize`: any number."""
        event, ledger = mechanism.event, self.ledger
        counts: dict[str, int] = {}
        for release in ledger.releases:
            key = repr(release.event)
            counts[key] = counts.get(key, 0) + release.count
        spent = counts.pop(repr(event), 0)
        # What goes with every step is counted with it: only what it has been released more than
        # that is a cost of its own.
        for companion in mechanism.companions:
            key = repr(companion.event)
            counts[key] = counts.get(key, 0) - spent * mechanism.scheme.steps_per_pass
        question = mechanism, counts, target_epsilon, delta, accountant
        # Searching for the number of steps takes seconds for "pld", counting them none.
        if self._allowed_for != question:
            remaining = ledger.remaining_steps(
                mechanism.whole_event, target_epsilon, delta, accountant
            )
            self._allowed, self._allowed_for = spent + remaining, question
        events = max(0, self._allowed - spent)
        free = self.segment_of(mechanism).steps_already_charged
        return min(free + events * mechanism.scheme.steps_per_pass, sys.maxsize)
