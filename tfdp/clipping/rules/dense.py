"""Dense layers."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfdp.clipping.per_example import Instantiated, OuterProduct, accumulation_dtype
from tfdp.clipping.registry import Call, Context, Rule, register_rule
from tfdp.clipping.rules.products import BATCH, lora_gradients


def sum_over_positions(cotangent: tf.Tensor) -> Instantiated:
    """Per-example gradients of a bias: the output gradient summed over all but its last axis."""
    dtype = accumulation_dtype(cotangent.dtype)
    axes = list(range(1, cotangent.shape.rank - 1))
    gradient = tf.reduce_sum(tf.cast(cotangent, dtype), axis=axes) if axes else cotangent
    return Instantiated(gradient, method="sum")


def flatten_positions(tensor: tf.Tensor) -> tf.Tensor:
    """Shape ``(batch, features)`` as it is, more axes as ``(batch, positions, features)``."""
    if tensor.shape.rank == 2:
        return tensor
    positions = 1
    for size in tensor.shape[1:-1]:
        positions = -1 if size is None or positions == -1 else positions * size
    return tf.reshape(tensor, [tf.shape(tensor)[0], positions, tensor.shape[-1]])


@register_rule(keras.layers.Dense)
class DenseRule(Rule):
    """``activation(inputs @ kernel + bias)`` on inputs ``(batch, ..., features)``."""

    ends_with_activation = True

    def refusal(self, layer: keras.layers.Dense) -> str | None:
        if getattr(layer, "quantization_mode", None) is not None:
            return "it is quantized"
        return None

    def gradients(self, call: Call, cotangent: tf.Tensor, context: Context):
        layer = call.layer
        left, right = flatten_positions(call.input), flatten_positions(cotangent)
        if layer.lora_enabled:
            batch = BATCH if left.shape.rank == 2 else BATCH + "t"
            yield from lora_gradients(layer, left, batch + "i", "io", right, batch + "o")
        else:
            yield layer.kernel, OuterProduct(left, right)
        if layer.use_bias:
            yield layer.bias, sum_over_positions(cotangent)
