"""Normalization within one example: layer, root-mean-square and group normalization.

Each layer computes ``normalized * gamma + beta``. The normalized inputs are worked out again from
the layer's inputs, in float32 or wider as Keras does it. Their moments are asked for in the words
that Keras uses, so that a compiled step finds them done in the forward pass. They are not taken
from the output, ``(output - beta) / gamma``: a ``gamma`` of zero leaves nothing there.
"""

from __future__ import annotations

import keras
import tensorflow as tf

from tfdp.clipping.per_example import Instantiated, accumulation_dtype
from tfdp.clipping.registry import Call, Context, Rule, register_rule
from tfdp.clipping.rules.per_feature import feature_gradient


def upcast(call: Call) -> tf.Tensor:
    """The layer's input, in the dtype of its arithmetic."""
    inputs = call.input
    return tf.cast(inputs, accumulation_dtype(inputs.dtype))


def normalized_axes(layer: keras.layers.Layer, rank: int) -> list[int]:
    """The layer's axes as Keras hands them on."""
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    if any(axis % rank == 0 for axis in axes):
        raise ValueError(
            f"Layer '{layer.name}' normalizes over the batch axis: there are no per-example "
            f"gradients. Received: axis={layer.axis}"
        )
    return list(axes)


@register_rule(keras.layers.LayerNormalization)
class LayerNormalizationRule(Rule):
    """``gamma`` and ``beta`` span the normalized axes."""

    def gradients(self, call: Call, cotangent: tf.Tensor, context: Context):
        layer, inputs = call.layer, upcast(call)
        axes = normalized_axes(layer, inputs.shape.rank)
        shape = [1] * inputs.shape.rank
        for axis in axes:
            shape[axis] = inputs.shape[axis]
        cotangent = tf.cast(cotangent, inputs.dtype)
        if layer.gamma is not None:
            mean, variance = tf.nn.moments(inputs, axes, keepdims=True)
            # With the deprecated `rms_scaling` Keras divides by the deviation without centering.
            normalized = inputs if layer.rms_scaling else inputs - mean
            normalized *= tf.math.rsqrt(variance + layer.epsilon)
            yield layer.gamma, feature_gradient(normalized * cotangent, layer.gamma, shape)
        if layer.beta is not None:
            yield layer.beta, feature_gradient(cotangent, layer.beta, shape)


class RMSNormalizationRule(Rule):
    """``scale`` spans the normalized axes; Keras aligns it with the trailing ones."""

    def gradients(self, call: Call, cotangent: tf.Tensor, context: Context):
        layer, inputs = call.layer, upcast(call)
        axes = normalized_axes(layer, inputs.shape.rank)
        mean_square = tf.reduce_mean(tf.square(inputs), axes, keepdims=True)
        normalized = inputs * tf.math.rsqrt(mean_square + layer.epsilon)
        product = normalized * tf.cast(cotangent, inputs.dtype)
        yield layer.scale, feature_gradient(product, layer.scale)


if hasattr(keras.layers, "RMSNormalization"):  # Since Keras 3.9.
    register_rule(keras.layers.RMSNormalization)(RMSNormalizationRule)


@register_rule(keras.layers.GroupNormalization)
class GroupNormalizationRule(Rule):
    """``gamma`` and ``beta`` have one weight a channel.

    The deviation of a group is the same at each position, so it divides the sum over positions:
    that leaves one product and one sum over the layer's activations.
    """

    def gradients(self, call: Call, cotangent: tf.Tensor, context: Context):
        layer, inputs = call.layer, upcast(call)
        rank = inputs.shape.rank
        axis = normalized_axes(layer, rank)[0] % rank
        cotangent = tf.cast(cotangent, inputs.dtype)
        channels = inputs.shape[axis]
        if layer.gamma is not None:
            sizes = [
                tf.shape(inputs)[k] if size is None else size for k, size in enumerate(inputs.shape)
            ]
            split = [layer.groups, channels // layer.groups]
            grouped_shape = [-1, *sizes[1:axis], *split, *sizes[axis + 1 :]]
            inputs = tf.reshape(inputs, grouped_shape)
            within = [k for k in range(1, rank + 1) if k != axis]
            positions = [k for k in within if k != axis + 1]
            mean, variance = tf.nn.moments(inputs, within, keepdims=True)
            product = (inputs - mean) * tf.reshape(cotangent, grouped_shape)
            product = tf.reduce_sum(product, positions, keepdims=True)
            product *= tf.math.rsqrt(variance + layer.epsilon)
            yield layer.gamma, Instantiated(tf.reshape(product, [-1, channels]), method="sum")
        if layer.beta is not None:
            shape = [channels] + [1] * (rank - axis - 1)
            yield layer.beta, feature_gradient(cotangent, layer.beta, shape)
