"""Convolution in one, two and three dimensions, in groups, and with LoRA factors."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfdp.clipping.per_example import (
    Instantiated,
    OuterProduct,
    PerExampleGradient,
    accumulation_dtype,
    gram_is_cheaper,
)
from tfdp.clipping.registry import Call, Context, Rule, register_rule
from tfdp.clipping.rules.dense import flatten_positions, sum_over_positions
from tfdp.clipping.rules.grouped_product import GroupedOuterProduct, by_group
from tfdp.clipping.rules.windows import (
    Window,
    channels_last,
    image_input,
    patches,
    with_two_axes,
    without_causal_padding,
)


def refusal_of_any(layer: keras.layers.Layer) -> str | None:
    """What no rule of this family serves, whichever its convolution."""
    if layer.data_format == "channels_first" and layer.use_bias:
        # `keras.ops.add` takes a tensor with one axis for a bias of the last axis if the sizes
        # agree. Which axis such a layer's bias is added to depends on the size of its images.
        return "it adds a bias to channels that come first"
    return None


@register_rule(keras.layers.Conv1D)
@register_rule(keras.layers.Conv2D)
@register_rule(keras.layers.Conv3D)
class ConvolutionRule(Rule):
    """``activation(conv(inputs, kernel) + bias)``; without a bias in either data format.

    With LoRA enabled the kernel is ``K + scale * A B`` with a frozen ``K``. A convolution by
    ``A B`` is one by ``A``, of few filters, followed by ``B`` at each position; the gradients of
    the two factors are those of the two steps, and the kernel's own is never formed.
    """

    ends_with_activation = True

    def refusal(self, layer: keras.layers.Layer) -> str | None:
        base = keras.layers.Conv2D
        if getattr(layer.convolution_op, "__func__", None) is not base.convolution_op:
            return "it overrides `convolution_op`"
        if type(layer).kernel is not base.kernel:
            return "it overrides `kernel`"
        return refusal_of_any(layer)

    def gradients(self, call: Call, cotangent: tf.Tensor, context: Context):
        layer = call.layer
        inputs, window = without_causal_padding(image_input(call), Window.of(layer))
        cotangent = channels_last(layer, cotangent)
        if layer._kernel.trainable:
            yield (
                layer._kernel,
                kernel_gradient(inputs, cotangent, window, context, layer.groups),
            )
        if layer.lora_enabled:
            yield from lora_gradients(layer, inputs, cotangent, window, context)
        if layer.use_bias:
            yield layer.bias, sum_over_positions(cotangent)


def kernel_gradient(
    inputs: tf.Tensor, cotangent: tf.Tensor, window: Window, context: Context, groups: int = 1
) -> PerExampleGradient:
    """Per-example gradients of a convolution's kernel, ``(*size, channels / groups, filters)``.

    A convolution is a dense layer on patches, so these are outer products of patches and output
    gradients. Early layers have many positions and small kernels: on a CPU one filter gradient an
    example, made without patches, is faster there.

    Args:
        inputs: Shape ``(batch, *axes, channels)``.
        cotangent: Gradient of the output, ``(batch, *positions, filters)``.
        window: The window, without causal padding.
        context: Properties of the device.
        groups: Number of groups that channels and filters are split into.
    """
    dtype = accumulation_dtype(cotangent.dtype)
    inputs, cotangent = tf.cast(inputs, dtype), tf.cast(cotangent, dtype)
    if loop_is_faster(inputs, cotangent, window, context, groups):
        gradient = filter_gradients_by_loop(inputs, cotangent, window)
        positions = flatten_positions(cotangent).shape[1]
        return Instantiated(gradient, method="example loop", positions=positions)
    left, right = flatten_positions(patches(inputs, window)), flatten_positions(cotangent)
    if groups == 1:
        return OuterProduct(left, right)
    return GroupedOuterProduct(by_group(left, groups, window.offsets), by_group(right, groups))


def loop_is_faster(
    inputs: tf.Tensor, cotangent: tf.Tensor, window: Window, context: Context, groups: int
) -> bool:
    """Whether one filter gradient an example beats patches."""
    if not context.loop or len(window.size) > 2 or groups > 1:
        return False  # In three dimensions the filter gradient of one example is slow.
    if window.dilated:
        return False  # A CPU has no filter gradient for these.
    features, filters = window.offsets * inputs.shape[-1], cotangent.shape[-1]
    return not gram_is_cheaper(flatten_positions(cotangent).shape[1], features, filters)


def filter_gradients_by_loop(
    inputs: tf.Tensor, cotangent: tf.Tensor, window: Window, *, depthwise_multiplier: int = 0
) -> tf.Tensor:
    """Kernel gradients one example after another, ``(batch, *size, channels, filters)``.

    Args:
        inputs: Shape ``(batch, *axes, channels)`` with one or two axes.
        cotangent: Gradient of the output, ``(batch, *positions, filters)``.
        window: The window, not dilated.
        depthwise_multiplier: For depthwise convolution, its filters for each channel.
    """
    window, (inputs, cotangent) = with_two_axes(window, inputs, cotangent)
    if depthwise_multiplier:
        backprop = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter
        filters = depthwise_multiplier
    else:
        backprop = tf.raw_ops.Conv2DBackpropFilter
        filters = cotangent.shape[-1]
    shape = (*window.size, inputs.shape[-1], filters)
    batch = tf.shape(inputs)[0]
    gradients = tf.TensorArray(inputs.dtype, size=batch, element_shape=shape)

    def example(i, gradients):
        gradient = backprop(
            input=inputs[i : i + 1],
            filter_sizes=shape,
            out_backprop=cotangent[i : i + 1],
            strides=[1, *window.strides, 1],
            padding=window.padding,
        )
        return i + 1, gradients.write(i, gradient)

    _, gradients = tf.while_loop(lambda i, _: i < batch, example, (0, gradients))
    return gradients.stack()


def lora_gradients(
    layer: keras.layers.Layer,
    inputs: tf.Tensor,
    cotangent: tf.Tensor,
    window: Window,
    context: Context,
):
    """Per-example gradients of the factors ``A`` and ``B`` of a convolution's kernel.

    Args:
        layer: A convolution with LoRA enabled.
        inputs: Shape ``(batch, *axes, channels)``.
        cotangent: Gradient of the output, ``(batch, *positions, filters)``.
        window: The window, without causal padding.
        context: Properties of the device.

    Yields:
        The two variables, each with its gradients.
    """
    a, b = (tf.convert_to_tensor(v) for v in (layer.lora_kernel_a, layer.lora_kernel_b))
    dtype = accumulation_dtype(cotangent.dtype)
    inputs, a, b = (tf.cast(tensor, dtype) for tensor in (inputs, a, b))
    scaled = tf.cast(cotangent, dtype) * tf.cast(layer.lora_alpha / layer.lora_rank, dtype)
    if layer.groups == 1:
        reduced = tf.tensordot(scaled, b, [[-1], [1]])
        yield layer.lora_kernel_a, kernel_gradient(inputs, reduced, window, context)
        hidden = keras.ops.conv(
            inputs,
            a,
            strides=list(window.strides),
            padding=window.padding.lower(),
            dilation_rate=window.dilation,
            data_format="channels_last",
        )
        yield (
            layer.lora_kernel_b,
            OuterProduct(flatten_positions(hidden), flatten_positions(scaled)),
        )
        return
    # The groups share A: to it they are further positions. B has columns for each of them.
    seen = by_group(flatten_positions(patches(inputs, window)), layer.groups, window.offsets)
    scaled = by_group(flatten_positions(scaled), layer.groups)
    b = tf.transpose(tf.reshape(b, [layer.lora_rank, layer.groups, -1]), [1, 2, 0])
    yield (
        layer.lora_kernel_a,
        OuterProduct(flatten_positions(seen), flatten_positions(tf.matmul(scaled, b))),
    )
    hidden = tf.matmul(seen, tf.reshape(a, [-1, layer.lora_rank]))
    yield layer.lora_kernel_b, GroupedOuterProduct(hidden, scaled)
