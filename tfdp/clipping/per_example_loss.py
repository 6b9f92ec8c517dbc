"""The loss of each example by itself, from the loss that a model was compiled with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfdp import _replicas

#: Losses are multiplied by it where layers compute in float16, whose smallest numbers gradients
#: fall below. It is taken out again, in float32, before any norm is used.
FLOAT16_LOSS_SCALE = 2.0**8


class PerExampleLoss:
    """``(y, y_pred, sample_weight) -> (batch,)``: the compiled loss on batches of one.

    Whatever the compiled loss does with a batch (weights, several outputs, masks, any reduction,
    a user's own function), example i's loss is what it gives on example i alone. The rows are
    evaluated in parallel with ``tf.vectorized_map``, and so are the gradients with respect to
    ``y_pred``, which the losses can be differentiated by, once.

    Args:
        compiled_loss: What Keras makes of ``compile(loss=..., loss_weights=...)``: a callable
            ``(y, y_pred, sample_weight) -> scalar``.

    Example:
        >>> import keras, tensorflow as tf
        >>> losses = PerExampleLoss(lambda y, y_pred, sample_weight: tf.reduce_mean(y_pred - y))
        >>> losses(tf.zeros([2, 1]), tf.constant([[1.0], [3.0]])).numpy()
        array([1., 3.], dtype=float32)
    """

    def __init__(self, compiled_loss: Any):
        self._compiled_loss = compiled_loss

    def __call__(self, y: Any, y_pred: Any, sample_weight: Any = None) -> tf.Tensor:
        masks = keras.tree.map_structure(lambda t: getattr(t, "_keras_mask", None), y_pred)
        structure = (y, sample_weight, masks)
        flat = keras.tree.flatten(structure)
        present = [tensor is not None for tensor in flat]
        others = [tensor for tensor in flat if tensor is not None]

        def one_example(row, outputs):
            remaining = iter(row)
            parts = [next(remaining)[None] if there else None for there in present]
            one_y, one_weight, one_mask = keras.tree.pack_sequence_as(structure, parts)
            one_pred = keras.tree.pack_sequence_as(y_pred, [output[None] for output in outputs])
            for prediction, mask in zip(
                keras.tree.flatten(one_pred), keras.tree.flatten(one_mask), strict=True
            ):
                if mask is not None:
                    prediction._keras_mask = mask
            # Keras tracks the losses of single outputs as metrics: not from in here.
            with keras.StatelessScope():
                loss = self._compiled_loss(one_y, one_pred, one_weight)
            return tf.reduce_sum(loss)

        return _each_example(one_example, others, keras.tree.flatten(y_pred))


def _each_example(
    one_example: Callable, others: list[tf.Tensor], outputs: list[tf.Tensor]
) -> tf.Tensor:
    """``one_example`` of each row, differentiable with respect to ``outputs``.

    The gradient is worked out together with the losses. Left to the tape, it would go back through
    ``tf.vectorized_map``, which XLA can compile only for constants: anew at every step, with that
    step's weights as the constants.
    """
    differentiable = [output.dtype.is_floating for output in outputs]
    half = any(output.dtype == tf.float16 for output in outputs)
    scale = FLOAT16_LOSS_SCALE if half else 1.0

    def loss_and_gradients(rows):
        row, row_outputs = rows[: len(others)], rows[len(others) :]
        watched = [output for output, d in zip(row_outputs, differentiable, strict=True) if d]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(watched)
            loss = one_example(row, row_outputs)
            scaled = loss * scale
        return loss, tape.gradient(scaled, watched, unconnected_gradients="zero")

    def each_example(rows):
        if rows[0].shape[0] == 1:
            found = loss_and_gradients([tensor[0] for tensor in rows])
            return keras.tree.map_structure(lambda tensor: tensor[None], found)
        return tf.vectorized_map(loss_and_gradients, rows)

    @tf.custom_gradient
    def losses_of(*outputs):
        losses, gradients = _replicas.as_on_one_device(each_example, [*others, *outputs])

        def backward(upstream):
            found = iter(gradients)
            return [_times(next(found), upstream / scale) if d else None for d in differentiable]

        return losses, backward

    return losses_of(*outputs)


def _times(gradient: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Rows of a gradient times a number each, without loss where the gradient is float16."""
    wide = tf.float64 if gradient.dtype == tf.float64 else tf.float32
    factor = tf.reshape(tf.cast(factor, wide), [-1] + [1] * (gradient.shape.rank - 1))
    return tf.cast(tf.cast(gradient, wide) * factor, gradient.dtype)
