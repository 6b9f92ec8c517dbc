"""Depthwise and separable convolution in one and two dimensions."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfdp.clipping.per_example import Instantiated, OuterProduct, accumulation_dtype
from tfdp.clipping.registry import Call, Context, Rule, register_rule
from tfdp.clipping.rules.convolution import FilterGradients, refusal_of_any
from tfdp.clipping.rules.dense import flatten_positions, sum_over_positions
from tfdp.clipping.rules.windows import Window, channels_last, image_input, slices


@register_rule(keras.layers.DepthwiseConv1D)
@register_rule(keras.layers.DepthwiseConv2D)
class DepthwiseRule(Rule):
    """``activation(depthwise_conv(inputs, kernel) + bias)``; without a bias in either data format.

    The kernel is tiny, ``(*size, channels, multiplier)``: its gradients are instantiated.
    """

    ends_with_activation = True

    def refusal(self, layer: keras.layers.Layer) -> str | None:
        return refusal_of_any(layer)

    def gradients(self, call: Call, cotangent: tf.Tensor, context: Context):
        layer, inputs = call.layer, image_input(call)
        cotangent = channels_last(layer, cotangent)
        yield layer.kernel, depthwise_gradient(inputs, cotangent, Window.of(layer), context)
        if layer.use_bias:
            yield layer.bias, sum_over_positions(cotangent)


@register_rule(keras.layers.SeparableConv1D)
@register_rule(keras.layers.SeparableConv2D)
class SeparableRule(Rule):
    """``activation(pointwise(depthwise_conv(inputs)) + bias)``; without bias in either format.

    What lies between the two steps is inside the layer, where nothing is recorded. It is worked
    out again from the input, which costs little and gives the same numbers: nothing is random.
    """

    ends_with_activation = True

    def refusal(self, layer: keras.layers.Layer) -> str | None:
        return refusal_of_any(layer)

    def gradients(self, call: Call, cotangent: tf.Tensor, context: Context):
        layer, inputs = call.layer, image_input(call)
        cotangent = channels_last(layer, cotangent)
        if layer.pointwise_kernel.trainable:
            between = keras.ops.depthwise_conv(
                inputs,
                tf.cast(layer.depthwise_kernel, inputs.dtype),
                strides=layer.strides,
                padding=layer.padding,
                dilation_rate=layer.dilation_rate,
                data_format="channels_last",
            )
            yield (
                layer.pointwise_kernel,
                OuterProduct(flatten_positions(between), flatten_positions(cotangent)),
            )
        if layer.depthwise_kernel.trainable:
            pointwise = tf.cast(layer.pointwise_kernel, cotangent.dtype)
            pointwise = tf.reshape(pointwise, pointwise.shape[-2:])
            yield (
                layer.depthwise_kernel,
                depthwise_gradient(
                    inputs,
                    tf.tensordot(cotangent, pointwise, [[-1], [1]]),
                    Window.of(layer),
                    context,
                ),
            )
        if layer.use_bias:
            yield layer.bias, sum_over_positions(cotangent)


def depthwise_gradient(
    inputs: tf.Tensor, cotangent: tf.Tensor, window: Window, context: Context
) -> Instantiated:
    """Per-example gradients of a depthwise kernel, ``(batch, *size, channels, multiplier)``.

    Either one filter gradient an example or, one kernel offset after another, the sum over
    positions of the inputs that the offset meets times the output gradients.

    Args:
        inputs: Shape ``(batch, *axes, channels)``.
        cotangent: Gradient of the output, ``(batch, *positions, channels * multiplier)``.
        window: The window.
        context: Properties of the device.
    """
    dtype = accumulation_dtype(cotangent.dtype)
    inputs, cotangent = tf.cast(inputs, dtype), tf.cast(cotangent, dtype)
    channels = inputs.shape[-1]
    multiplier = cotangent.shape[-1] // channels
    positions = flatten_positions(cotangent).shape[1]
    if context.loop and not window.dilated and len(set(window.strides)) == 1:
        return FilterGradients(inputs, cotangent, window, multiplier)
    axes = list(range(1, cotangent.shape.rank - 1))
    repeated = tf.repeat(inputs, multiplier, axis=-1) if multiplier > 1 else inputs
    sums = [tf.reduce_sum(part * cotangent, axes) for part in slices(repeated, window)]
    gradient = tf.reshape(
        tf.stack(sums, axis=1), [tf.shape(inputs)[0], *window.size, channels, multiplier]
    )
    return Instantiated(gradient, method="sum by kernel offset", positions=positions)
