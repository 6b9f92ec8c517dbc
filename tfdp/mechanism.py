"""One training step as the accounting sees it, and the count of such steps."""

from __future__ import annotations

import dataclasses
from typing import Any

import dp_accounting
import tensorflow as tf

from tfdp import accounting
from tfdp.optimizers import DPOptimizerMixin


@dataclasses.dataclass(frozen=True)
class Mechanism:
    """One training step as the accounting sees it.

    Attributes:
        event: The privacy event of the step.
        expected_batch_size: Expected number of examples of a step.
        num_groups: Groups whose examples are averaged before clipping; ``None``: each example is
            clipped by itself.
        random_groups: Whether each example draws its group, as it must under Poisson sampling,
            where an example more would shift all later ones; else groups are consecutive rows.
        details: What the privacy statement says about the step.
    """

    event: dp_accounting.DpEvent
    expected_batch_size: int
    num_groups: int | None
    random_groups: bool
    details: dict[str, Any]

    @property
    def denominator(self) -> int:
        """The constant that the noisy sum of clipped gradients is divided by."""
        return self.num_groups or self.expected_batch_size


class Segment:
    """Steps of one mechanism: counted where they run, charged where the ledger is asked.

    The counter belongs to the mechanism that a step was traced for, so that no step can be
    charged as another one, whichever of several compiled functions runs it.
    """

    def __init__(self, mechanism: Mechanism):
        self.mechanism = mechanism
        with tf.init_scope():
            self.steps = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._charged = 0

    def charge(self, ledger: accounting.PrivacyLedger) -> None:
        """Charges the steps that have run since the last time."""
        with tf.init_scope():  # Also when a caller's own loop is being traced.
            steps = int(self.steps.numpy())
        if steps > self._charged:
            ledger.charge(
                self.mechanism.event,
                steps - self._charged,
                description="DP-SGD training",
                details=self.mechanism.details,
            )
            self._charged = steps


def mechanism_of(
    optimizer: DPOptimizerMixin,
    *,
    sampling_probability: float,
    expected_batch_size: int,
    random_groups: bool,
    details: dict[str, Any],
) -> Mechanism:
    """The mechanism of a step with an optimizer's parameters.

    Args:
        optimizer: The DP optimizer.
        sampling_probability: Probability of each example to be in the batch; 1 if unknown.
        expected_batch_size: Expected number of examples.
        random_groups: See `Mechanism`.
        details: What else the privacy statement says, for instance how examples were sampled.

    Raises:
        ValueError: If ``num_microbatches`` does not divide the batch size.
    """
    groups = optimizer.num_microbatches
    if groups is not None and expected_batch_size % groups:
        raise ValueError(
            f"`num_microbatches` must divide the batch size {expected_batch_size}. "
            f"Received: num_microbatches={groups}"
        )
    if groups == expected_batch_size:
        groups = None
    details = {**details, "expected_batch_size": expected_batch_size}
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
    return Mechanism(
        event=accounting.dp_sgd_event(
            optimizer.noise_multiplier,
            sampling_probability,
            microbatch_size=1 if groups is None else expected_batch_size // groups,
        ),
        expected_batch_size=expected_batch_size,
        num_groups=groups,
        random_groups=random_groups,
        details=details,
    )
