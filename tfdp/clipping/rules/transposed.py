"""Transposed convolution in one, two and three dimensions."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfdp.clipping.registry import Call, Context, Rule, register_rule
from tfdp.clipping.rules.convolution import kernel_gradient, refusal_of_any
from tfdp.clipping.rules.dense import sum_over_positions
from tfdp.clipping.rules.windows import Window, channels_last, image_input


@register_rule(keras.layers.Conv1DTranspose)
@register_rule(keras.layers.Conv2DTranspose)
@register_rule(keras.layers.Conv3DTranspose)
class TransposedConvolutionRule(Rule):
    """``activation(conv_transpose(inputs, kernel) + bias)``; without a bias in either data format.

    The layer is the transpose of the convolution that takes its output to its input. So its
    kernel's gradient is that convolution's, with the output's gradient in the place of the input
    and the input in the place of the output's gradient.
    """

    ends_with_activation = True

    def refusal(self, layer: keras.layers.Layer) -> str | None:
        return refusal_of_any(layer)

    def gradients(self, call: Call, cotangent: tf.Tensor, context: Context):
        layer = call.layer
        cotangent = channels_last(layer, cotangent)
        inputs = image_input(call)
        yield layer.kernel, kernel_gradient(cotangent, inputs, Window.of(layer), context)
        if layer.use_bias:
            yield layer.bias, sum_over_positions(cotangent)
