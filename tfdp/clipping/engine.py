"""From a batch to the sum of its clipped per-example gradients, in one backward pass.

One forward pass records, for every layer that owns trainable weights, its input and its output;
one backward pass gives the gradient of the summed losses with respect to those outputs. Row i of
such a gradient belongs to example i alone, so that with the layer's input it determines example
i's weight gradient. Rules turn the two into norms, then, with the clip factors, into the clipped
sum; the tape never computes a weight gradient and nothing is run twice ("book-keeping", Bu et al.
2023, arXiv:2210.00038).
"""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdp.clipping.bounds import Clipper, joint_norm
from tfdp.clipping.per_example import PerExampleGradient, Summed, sum_of_squares
from tfdp.clipping.per_example_loss import FLOAT16_LOSS_SCALE
from tfdp.clipping.plan import Plan, check_no_added_losses
from tfdp.clipping.probe import check_recording
from tfdp.clipping.recorder import Recorder
from tfdp.clipping.registry import Context

#: ``(y, y_pred, sample_weight) -> losses``, of shape ``(batch,)``.
PerExampleLossFn = Callable[[Any, Any, Any], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class ClippedGradients:
    """What an engine makes of one physical batch.

    Attributes:
        sums: ``sum_i clip(g_i)`` for each trainable variable, in the model's order.
        norms: Norms of the unclipped gradients over all trainable variables together, ``(batch,)``.
        clipped: Which gradients were made shorter, ``(batch,)``.
        finite: Which examples had a finite loss and gradient; the others count as zero.
        losses: Per-example losses, ``(batch,)``.
        y_pred: The model's outputs.

    Example:
        >>> import keras, tensorflow as tf, tfdp
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        >>> clipper = tfdp.clipping.ClipBound(1.0).resolve(model)
        >>> engine = tfdp.clipping.VectorizedEngine(model, clipper)
        >>> x = tf.constant([[0.5], [3.0]])  # For this loss the inputs are the gradients.
        >>> clipped = engine(x, x, None, lambda y, y_pred, weights: tf.reduce_sum(y_pred, 1))
        >>> clipped.norms.numpy(), clipped.clipped.numpy(), clipped.sums[0].numpy()
        (array([0.5, 3. ], dtype=float32), array([False,  True]), array([[1.5]], dtype=float32))
    """

    sums: list[tf.Tensor]
    norms: tf.Tensor
    clipped: tf.Tensor
    finite: tf.Tensor
    losses: tf.Tensor
    y_pred: Any


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """How one variable's per-example gradients were worked out, for ``clipping_summary()``.

    Attributes:
        layer: Name of the layer.
        variable: Path of the variable.
        weights: How many weights it has.
        positions: How many outer products one example's gradient is a sum of (pixels, tokens);
            ``None`` if unknown.
        method: The way, in a word.
        floats_per_example: Numbers held for one example beyond the layer's own activations.

    Example:
        >>> import keras, tensorflow as tf, tfdp
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        >>> clipper = tfdp.clipping.ClipBound(1.0).resolve(model)
        >>> engine = tfdp.clipping.VectorizedEngine(model, clipper)
        >>> [(report.method, report.weights) for report in engine.reports]
        [('vectorized', 1)]
    """

    layer: str
    variable: str
    weights: int
    positions: int | None
    method: str
    floats_per_example: int


class Engine(abc.ABC):
    """Differentiates a model example by example, clips, and adds up.

    Args:
        model: A built model.
        clipper: The clip bound for its variables.
        views: Makes several augmented rows of each example (`tfdp.sampling.Views`), whose mean
            loss is differentiated. Defaults to ``None``: the examples as they are.

    Call arguments:
        x: Inputs of the model, nested tensors with the batch as first axis.
        y: Targets.
        sample_weight: Weights of the examples' losses, or ``None``.
        loss_fn: Per-example losses from targets, outputs and weights.
        valid: Boolean mask ``(batch,)``; other rows are padding and add nothing. Defaults to all.

    Formal guarantee: row by row, the norm of the clipped gradient is within the bound up to
    float32 rounding, for the gradient of example i's own loss in the one forward pass that was
    run, with its dropout masks. An example with a non-finite loss or gradient counts as zero.

    Example:
        >>> import keras, tensorflow as tf, tfdp
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        >>> clipper = tfdp.clipping.ClipBound(1.0).resolve(model)
        >>> engine = tfdp.clipping.VectorizedEngine(model, clipper)
        >>> x = tf.constant([[0.5], [3.0]])  # For this loss the inputs are the gradients.
        >>> engine(x, x, None, lambda y, y_pred, weights: tf.reduce_sum(y_pred, 1)).sums[0].numpy()
        array([[1.5]], dtype=float32)
    """

    def __init__(self, model: keras.Model, clipper: Clipper, views: Any = None):
        self._model = model
        self._clipper = clipper
        self._views = views
        self.reports: list[LayerReport] = []
        #: Numbers held for one example, as far as they are known; set when traced.
        self.floats_per_example = 0

    def __call__(
        self,
        x: Any,
        y: Any,
        sample_weight: Any,
        loss_fn: PerExampleLossFn,
        valid: tf.Tensor | None = None,
    ) -> ClippedGradients:
        gradients, losses, y_pred = self._per_example(x, y, sample_weight, loss_fn)
        squared, norms, finite = _measured(gradients, losses)
        keep = finite if valid is None else tf.logical_and(finite, valid)
        _drop_examples(finite, gradients)
        sums, clipped = [], tf.zeros_like(finite)
        factors = self._clipper.factors(squared)
        for variable, gradient, factor in zip(
            self._model.trainable_variables, gradients, factors, strict=True
        ):
            if gradient is None:
                sums.append(tf.zeros(variable.shape, variable.dtype))
                continue
            clipped = tf.logical_or(clipped, factor < 1)
            factor = tf.where(keep, factor, tf.zeros_like(factor))
            total = tf.reshape(gradient.weighted_sum(factor), variable.shape)
            sums.append(tf.cast(total, variable.dtype))
        return ClippedGradients(sums, norms, clipped, finite, losses, y_pred)

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
        gradients, losses, y_pred = self._per_example(x, y, sample_weight, loss_fn)
        _, norms, finite = _measured(gradients, losses)
        _drop_examples(finite, gradients)
        sums = []
        for variable, gradient in zip(self._model.trainable_variables, gradients, strict=True):
            shape = (num_groups, *variable.shape)
            if gradient is None:
                sums.append(tf.zeros(shape, variable.dtype))
            else:
                rows = gradient.materialize()
                total = tf.math.unsorted_segment_sum(rows, groups, num_groups)
                sums.append(tf.cast(tf.reshape(total, shape), variable.dtype))
        return ClippedGradients(sums, norms, tf.zeros_like(finite), finite, losses, y_pred)

    def squared_norms(
        self, x: Any, y: Any, sample_weight: Any, loss_fn: PerExampleLossFn
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """Squared norms of the unclipped gradients, variable by variable; nothing is added up.

        Args:
            x: As in the call.
            y: As in the call.
            sample_weight: As in the call.
            loss_fn: As in the call.

        Returns:
            For each trainable variable, in the model's order, squared norms ``(batch,)``: zeros
            where the loss does not depend on it. Then which examples had a finite loss and
            gradient, ``(batch,)``; the norms of the others mean nothing.
        """
        gradients, losses, _ = self._per_example(x, y, sample_weight, loss_fn)
        squared, norms, finite = _measured(gradients, losses)
        return [tf.zeros_like(norms) if s is None else s for s in squared], finite

    def _per_example(
        self, x: Any, y: Any, sample_weight: Any, loss_fn: PerExampleLossFn
    ) -> tuple[list[PerExampleGradient | None], tf.Tensor, Any]:
        """Gradients for each variable (``None``: unused), losses ``(batch,)`` and outputs.

        With several views of an example they are those of its mean loss; the outputs are those of
        its first view.
        """
        if self._views is None:
            return self._differentiate(x, y, sample_weight, loss_fn)
        count = self._views.multiplicity

        def share_of_mean(*arguments):
            return loss_fn(*arguments) / count

        gradients, losses, y_pred = self._differentiate(
            *self._views(x, y, sample_weight), share_of_mean
        )
        losses = tf.reduce_sum(tf.reshape(losses, [-1, count]), axis=1)
        return gradients, losses, keras.tree.map_structure(lambda t: t[::count], y_pred)

    def _merged(self, gradient: PerExampleGradient) -> PerExampleGradient:
        """The gradients of examples, from those of their views."""
        if self._views is None or self._views.multiplicity == 1:
            return gradient
        return gradient.merged(self._views.multiplicity)

    @abc.abstractmethod
    def _differentiate(
        self, x: Any, y: Any, sample_weight: Any, loss_fn: PerExampleLossFn
    ) -> tuple[list[PerExampleGradient | None], tf.Tensor, Any]:
        """Gradients of examples (`_merged`); losses and outputs of their views."""


class RecordingEngine(Engine):
    """Clips by recording layers: the fast path.

    Args:
        model: A built model.
        clipper: The clip bound for its variables.
        plan: The model's plan, without refusals.
        context: Properties of the device.
        views: As of `Engine`.

    Example:
        >>> import keras, tensorflow as tf, tfdp
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        >>> clipper = tfdp.clipping.ClipBound(1.0).resolve(model)
        >>> plan = tfdp.clipping.make_plan(model)
        >>> engine = RecordingEngine(model, clipper, plan, tfdp.clipping.Context())
        >>> x = tf.constant([[0.5], [3.0]])  # For this loss the inputs are the gradients.
        >>> engine(x, x, None, lambda y, y_pred, weights: tf.reduce_sum(y_pred, 1)).sums[0].numpy()
        array([[1.5]], dtype=float32)
    """

    def __init__(
        self,
        model: keras.Model,
        clipper: Clipper,
        plan: Plan,
        context: Context,
        views: Any = None,
    ):
        plan.check()
        super().__init__(model, clipper, views)
        self._plan = plan
        self._checked = False
        self._context = context
        half = any(part.compute_dtype == "float16" for part in model._flatten_layers())
        self._loss_scale = FLOAT16_LOSS_SCALE if half else 1.0

    def _differentiate(self, x, y, sample_weight, loss_fn):
        if not self._checked:  # Once, when traced.
            check_recording(self._model, self._plan, x)
            self._checked = True
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            with Recorder(self._plan.rules, tape) as recorder:
                y_pred = self._model(x, training=True)
            check_no_added_losses(self._model)
            losses = loss_fn(y, y_pred, sample_weight)
            total = tf.reduce_sum(losses) * self._loss_scale
        cotangents = tape.gradient(total, [call.output for call in recorder.calls])
        uses: dict[int, list[PerExampleGradient]] = {}
        self.reports = []
        held = [_floats(part) for call in recorder.calls for part in (call.args, call.output)]
        for call, cotangent in zip(recorder.calls, cotangents, strict=True):
            cotangent = keras.tree.map_structure(self._unscaled, cotangent, call.output)
            if all(part is None for part in keras.tree.flatten(cotangent)):
                continue  # The loss does not depend on this call.
            rule = self._plan.rules[call.layer]
            for variable, gradient in rule.gradients(call, cotangent, self._context):
                if variable.trainable:
                    gradient = self._merged(gradient)
                    uses.setdefault(id(variable), []).append(gradient)
                    self.reports.append(_report(call.layer, variable, gradient))
        gradients = [
            _one_gradient(uses.get(id(variable), []))
            for variable in self._model.trainable_variables
        ]
        rows = 1 if self._views is None else self._views.multiplicity
        gradients_held = sum(report.floats_per_example for report in self.reports)
        self.floats_per_example = rows * sum(held) + gradients_held
        return gradients, losses, y_pred

    def _unscaled(self, cotangent: Any, output: tf.Tensor) -> tf.Tensor | None:
        """The gradient with respect to an output as a tensor (gathers leave slices)."""
        if cotangent is None:
            return None
        cotangent = tf.convert_to_tensor(cotangent)
        cotangent.set_shape(output.shape)  # Slices do not know theirs.
        if self._loss_scale == 1.0:
            return cotangent
        if cotangent.dtype == tf.float16:
            cotangent = tf.cast(cotangent, tf.float32)
        return cotangent / tf.cast(self._loss_scale, cotangent.dtype)


def clip_group_means(sums: list[tf.Tensor], group_size: int, clipper: Clipper) -> list[tf.Tensor]:
    """Averages groups of examples, clips each average, and adds them up.

    Args:
        sums: For each variable, summed gradients of the groups, ``(groups, *variable)``.
        group_size: The constant that each sum is divided by: the expected size of a group.
        clipper: The clip bound of each average.

    Returns:
        ``sum_m clip(sums_m / group_size)`` for each variable.

    Formal guarantee: one example more or less in one group moves the result by at most twice the
    clip bound.

    Example:
        >>> import tensorflow as tf
        >>> clipper = Clipper(groups=(((0,), 1.0),))
        >>> (total,) = clip_group_means([tf.constant([[1.0], [8.0]])], 2, clipper)
        >>> total.numpy()  # The means 0.5 and 4, of which the second is clipped to 1.
        array([1.5], dtype=float32)
    """
    means = [total / tf.cast(group_size, total.dtype) for total in sums]
    factors = clipper.factors([sum_of_squares(mean) for mean in means])
    return [
        tf.tensordot(tf.cast(factor, mean.dtype), mean, 1)
        for mean, factor in zip(means, factors, strict=True)
    ]


def _one_gradient(uses: list[PerExampleGradient]) -> PerExampleGradient | None:
    if len(uses) > 1:
        return uses[0].joined(uses[1:]) or Summed(uses)
    return uses[0] if uses else None


def _measured(
    gradients: Sequence[PerExampleGradient | None], losses: tf.Tensor
) -> tuple[list[tf.Tensor | None], tf.Tensor, tf.Tensor]:
    """Squared norms of each variable's gradients, norms over all of them, and which are finite."""
    squared = [None if g is None else g.squared_norm() for g in gradients]
    norms = _total_norm(squared, losses)
    return squared, norms, tf.math.is_finite(norms)


def _total_norm(squared: Sequence[tf.Tensor | None], losses: tf.Tensor) -> tf.Tensor:
    """Norms over all variables; not a number where the loss is not finite.

    A non-finite loss can come with a finite gradient: its example is dropped all the same.
    """
    present = [s for s in squared if s is not None]
    if not present:
        return tf.zeros_like(losses)
    norms = joint_norm(present)
    return tf.where(tf.math.is_finite(losses), norms, tf.constant(float("nan"), norms.dtype))


def _drop_examples(finite: tf.Tensor, gradients: Sequence[PerExampleGradient | None]) -> None:
    """Zeroes the factors of non-finite examples: a clip factor of 0 times infinity is no 0."""
    gradients = [gradient for gradient in gradients if gradient is not None]
    tensors = [tensor for gradient in gradients for tensor in gradient.tensors]
    if not tensors:
        return
    tensors = tf.cond(
        tf.reduce_all(finite),
        lambda: tensors,
        lambda: [_zero_rows_unless(finite, tensor) for tensor in tensors],
    )
    remaining = iter(tensors)
    for gradient in gradients:
        gradient.tensors = [next(remaining) for _ in gradient.tensors]


def _zero_rows_unless(keep: tf.Tensor, tensor: tf.Tensor) -> tf.Tensor:
    mask = tf.reshape(keep, [-1] + [1] * (tensor.shape.rank - 1))
    return tf.where(mask, tensor, tf.zeros_like(tensor))


def _floats(tensors: Any) -> int:
    """Numbers to one example in nested tensors, where the sizes of axes are known."""
    return sum(
        math.prod(size or 1 for size in tensor.shape[1:])
        for tensor in keras.tree.flatten(tensors)
        if isinstance(tensor, tf.Tensor)
    )


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
