"""From a batch to the sum of its clipped per-example gradients, in one backward pass.

One forward pass records, for every layer that owns trainable weights, its input and its output;
one backward pass gives the gradient of the summed losses with respect to those outputs. Row i of
such a gradient belongs to example i alone, so that with the layer's input it determines example
i's weight gradient. Rules turn the two into norms, then, with the clip factors, into the clipped
sum; the tape never computes a weight gradient and nothing is run twice ("book-keeping", Bu et al.
2023, arXiv:2210.00038).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfdp.clipping.per_example import PerExampleGradient, Summed, sum_of_squares
from tfdp.clipping.plan import Plan
from tfdp.clipping.recorder import Recorder
from tfdp.clipping.registry import Context

#: ``(y, y_pred, sample_weight) -> losses``, of shape ``(batch,)``.
PerExampleLossFn = Callable[[Any, Any, Any], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class ClippedGradients:
    """What the engine makes of one physical batch.

    Attributes:
        sums: ``sum_i clip(g_i)`` for each trainable variable, in the model's order.
        norms: Norms of the unclipped gradients over all trainable variables together, ``(batch,)``.
        finite: Which examples had a finite loss and gradient; the others count as zero.
        losses: Per-example losses, ``(batch,)``.
        y_pred: The model's outputs.
    """

    sums: list[tf.Tensor]
    norms: tf.Tensor
    finite: tf.Tensor
    losses: tf.Tensor
    y_pred: Any


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """How one variable's per-example gradients were worked out, for ``clipping_summary()``."""

    layer: str
    variable: str
    weights: int
    positions: int | None
    method: str
    floats_per_example: int


def clip_factors(norms: tf.Tensor, l2_norm_clip: float) -> tuple[tf.Tensor, tf.Tensor]:
    """``min(1, C / norm)`` for each example, and which norms are finite.

    | norm | factor |
    | --- | --- |
    | 0 | 1 |
    | at most C | 1 |
    | above C | C / norm |
    | infinite or not a number | 0 |

    Args:
        norms: Shape ``(batch,)``.
        l2_norm_clip: The bound C, positive; infinity switches clipping off.

    Returns:
        Factors and a boolean mask, both of shape ``(batch,)``.
    """
    finite = tf.math.is_finite(norms)
    if l2_norm_clip == float("inf"):
        return tf.cast(finite, norms.dtype), finite
    bound = tf.cast(l2_norm_clip, norms.dtype)
    return tf.where(finite, bound / tf.maximum(norms, bound), tf.zeros_like(norms)), finite


def clip_group_means(
    sums: list[tf.Tensor], group_size: float, l2_norm_clip: float
) -> list[tf.Tensor]:
    """Averages groups of examples, clips each average, and adds them up.

    Args:
        sums: For each variable, summed gradients of the groups, ``(groups, *variable)``.
        group_size: The constant that each sum is divided by: the expected size of a group.
        l2_norm_clip: Bound on the norm of each average over all variables together.

    Returns:
        ``sum_m clip(sums_m / group_size)`` for each variable. One example more or less in one
        group moves it by at most ``2 * l2_norm_clip``.
    """
    means = [total / tf.cast(group_size, total.dtype) for total in sums]
    factors, _ = clip_factors(
        tf.sqrt(tf.add_n([sum_of_squares(mean) for mean in means])), l2_norm_clip
    )
    return [tf.tensordot(tf.cast(factors, mean.dtype), mean, 1) for mean in means]


def zero_rows_unless(keep: tf.Tensor, tensor: tf.Tensor) -> tf.Tensor:
    """Replaces by zero each row i of ``tensor`` with ``keep[i]`` false."""
    mask = tf.reshape(keep, [-1] + [1] * (tensor.shape.rank - 1))
    return tf.where(mask, tensor, tf.zeros_like(tensor))


class RecordingEngine:
    """Clips by recording layers: the fast path.

    Args:
        model: A built model.
        plan: Its plan, without refusals.
        l2_norm_clip: Bound on each example's gradient over all trainable variables together.
        context: Properties of the device.

    Call arguments:
        x: Inputs of the model, nested tensors with the batch as first axis.
        y: Targets.
        sample_weight: Weights of the examples' losses, or ``None``.
        loss_fn: Per-example losses from targets, outputs and weights.
        valid: Boolean mask ``(batch,)``; other rows are padding and add nothing. Defaults to all.

    Formal guarantee: row by row, ``|clip(g_i)| <= l2_norm_clip`` up to float32 rounding, for the
    gradient of example i's own loss in the one forward pass that was run, with its dropout masks.
    """

    def __init__(self, model: keras.Model, plan: Plan, l2_norm_clip: float, context: Context):
        plan.check()
        self._model = model
        self._plan = plan
        self._clip = l2_norm_clip
        self._context = context
        self.reports: list[LayerReport] = []

    def __call__(
        self,
        x: Any,
        y: Any,
        sample_weight: Any,
        loss_fn: PerExampleLossFn,
        valid: tf.Tensor | None = None,
    ) -> ClippedGradients:
        gradients, norms, losses, y_pred = self._differentiate(x, y, sample_weight, loss_fn)
        factors, finite = clip_factors(norms, self._clip)
        if valid is not None:
            factors = tf.where(valid, factors, tf.zeros_like(factors))
        _drop_examples(finite, list(gradients.values()))
        sums = self._by_variable(gradients, lambda gradient: gradient.weighted_sum(factors), ())
        return ClippedGradients(sums, norms, finite, losses, y_pred)

    def sum_groups(
        self,
        x: Any,
        y: Any,
        sample_weight: Any,
        loss_fn: PerExampleLossFn,
        groups: tf.Tensor,
        num_groups: int,
    ) -> ClippedGradients:
        """Unclipped gradients, added up within groups of examples (see `clip_group_means`).

        Args:
            x: As in the call.
            y: As in the call.
            sample_weight: As in the call.
            loss_fn: As in the call.
            groups: Each example's group, integers ``(batch,)``.
            num_groups: Number of groups.

        Returns:
            `ClippedGradients` whose ``sums`` have the shape ``(num_groups, *variable)``.
        """
        gradients, norms, losses, y_pred = self._differentiate(x, y, sample_weight, loss_fn)
        finite = tf.math.is_finite(norms)
        _drop_examples(finite, list(gradients.values()))

        def by_group(gradient):
            return tf.math.unsorted_segment_sum(gradient.materialize(), groups, num_groups)

        sums = self._by_variable(gradients, by_group, (num_groups,))
        return ClippedGradients(sums, norms, finite, losses, y_pred)

    def _differentiate(self, x, y, sample_weight, loss_fn):
        """Per-example gradients by the id of their variable, norms, losses and outputs."""
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            with Recorder(self._plan.rules, tape) as recorder:
                y_pred = self._model(x, training=True)
            losses = loss_fn(y, y_pred, sample_weight)
            total = tf.reduce_sum(losses)
        gradients = self._per_example_gradients(recorder, tape, total)
        squared = [gradient.squared_norm() for gradient in gradients.values()]
        norms = tf.sqrt(tf.add_n(squared)) if squared else tf.zeros_like(losses)
        return gradients, nan_unless_finite(losses, norms), losses, y_pred

    def _per_example_gradients(
        self, recorder: Recorder, tape: tf.GradientTape, total: tf.Tensor
    ) -> dict[int, PerExampleGradient]:
        """Gradients by the id of their variable."""
        cotangents = tape.gradient(total, [call.output for call in recorder.calls])
        parts: dict[int, list[PerExampleGradient]] = {}
        self.reports = []
        for call, cotangent in zip(recorder.calls, cotangents, strict=True):
            if cotangent is None:  # The loss does not depend on this call.
                continue
            cotangent = keras.tree.map_structure(_dense, cotangent)
            rule = self._plan.rules[call.layer]
            for variable, gradient in rule.gradients(call, cotangent, self._context):
                if variable.trainable:
                    parts.setdefault(id(variable), []).append(gradient)
                    self.reports.append(_report(call.layer, variable, gradient))
        return {key: uses[0] if len(uses) == 1 else Summed(uses) for key, uses in parts.items()}

    def _by_variable(
        self,
        gradients: dict[int, PerExampleGradient],
        reduce: Callable[[PerExampleGradient], tf.Tensor],
        leading: tuple[int, ...],
    ) -> list[tf.Tensor]:
        """``reduce`` of each variable's gradients, of shape ``(*leading, *variable)``."""
        results = []
        for variable in self._model.trainable_variables:
            shape = (*leading, *variable.shape)
            gradient = gradients.get(id(variable))
            if gradient is None:
                results.append(tf.zeros(shape, variable.dtype))
            else:
                results.append(tf.cast(tf.reshape(reduce(gradient), shape), variable.dtype))
        return results


def nan_unless_finite(losses: tf.Tensor, norms: tf.Tensor) -> tf.Tensor:
    """A non-finite loss can come with a finite gradient: its example is dropped all the same."""
    return tf.where(tf.math.is_finite(losses), norms, tf.constant(float("nan"), norms.dtype))


def _drop_examples(finite: tf.Tensor, gradients: list[PerExampleGradient]) -> None:
    """Zeroes the factors of non-finite examples: a clip factor of 0 times infinity is no 0."""
    tensors = [tensor for gradient in gradients for tensor in gradient.tensors]
    if not tensors:
        return
    tensors = tf.cond(
        tf.reduce_all(finite),
        lambda: tensors,
        lambda: [zero_rows_unless(finite, tensor) for tensor in tensors],
    )
    remaining = iter(tensors)
    for gradient in gradients:
        gradient.tensors = [next(remaining) for _ in gradient.tensors]


def _dense(cotangent: Any) -> tf.Tensor | None:
    """Gathers leave gradients as slices; rules work on tensors."""
    return None if cotangent is None else tf.convert_to_tensor(cotangent)


def _report(
    layer: keras.layers.Layer, variable: keras.Variable, gradient: PerExampleGradient
) -> LayerReport:
    return LayerReport(
        layer=layer.name,
        variable=variable.path,
        weights=math.prod(variable.shape),
        positions=gradient.positions,
        method=gradient.method,
        floats_per_example=gradient.floats_per_example,
    )
