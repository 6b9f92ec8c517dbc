"""Layers with one weight a feature, which multiplies or is added to that feature."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import tensorflow as tf

from tfdp.clipping.per_example import Instantiated, accumulation_dtype
from tfdp.clipping.registry import Call, Context, Rule, register_rule


def sum_to_weight(
    gradient: tf.Tensor, variable: keras.Variable, shape: Sequence[int] | None = None
) -> tf.Tensor:
    """Sums over the positions that share a weight.

    Args:
        gradient: Gradients of a feature's weight at each position, ``(batch, ..., features)``.
        variable: The weights.
        shape: The shape in which they were broadcast against the trailing axes of ``gradient``.
            Defaults to the variable's own.

    Returns:
        Shape ``(batch, *variable)``.
    """
    shape = tuple(variable.shape if shape is None else shape)
    aligned = (1,) * (gradient.shape.rank - len(shape)) + shape
    # Examples do not share theirs.
    axes = [axis for axis, size in enumerate(aligned) if size == 1 and axis > 0]
    total = tf.reduce_sum(gradient, axes) if axes else gradient
    return tf.reshape(total, [tf.shape(gradient)[0], *variable.shape])


def feature_gradient(
    gradient: tf.Tensor, variable: keras.Variable, shape: Sequence[int] | None = None
) -> Instantiated:
    """Per-example gradients of weights, one a feature; arguments as in `sum_to_weight`."""
    return Instantiated(sum_to_weight(gradient, variable, shape), method="sum")


@register_rule(keras.layers.PReLU)
class PReLURule(Rule):
    """``relu(inputs) - alpha * relu(-inputs)``; ``alpha`` has size 1 along shared axes."""

    def gradients(self, call: Call, cotangent: tf.Tensor, context: Context):
        dtype = accumulation_dtype(cotangent.dtype)
        negative = tf.minimum(tf.cast(call.input, dtype), 0)
        product = negative * tf.cast(cotangent, dtype)
        yield call.layer.alpha, feature_gradient(product, call.layer.alpha)
