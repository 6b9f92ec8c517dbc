"""Convolution in one, two and three dimensions, in groups, and with LoRA factors."""

from __future__ import annotations

import math

import keras
import tensorflow as tf

from tfdp.clipping.per_example import (
    OuterProduct,
    PerExampleGradient,
    accumulation_dtype,
    gram_is_cheaper,
    scale_rows,
    sum_of_squares,
)
from tfdp.clipping.registry import Call, Context, Rule, register_rule
from tfdp.clipping.rules.dense import flatten_positions, sum_over_positions
from tfdp.clipping.rules.grouped_product import GroupedOuterProduct, by_group
from tfdp.clipping.rules.windows import (
    Window,
    channels_last,
    image_input,
    padded_with_indices,
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
    gradients. Patches are as many times larger than the inputs as a kernel has offsets, and where
    the ordinary filter gradient can be used they need not be made: early layers, with many
    positions and small kernels, take one filter gradient an example (`FilterGradients`);
    late ones a norm from Gram matrices and one filter gradient (`InputGram`).

    Args:
        inputs: Shape ``(batch, *axes, channels)``.
        cotangent: Gradient of the output, ``(batch, *positions, filters)``.
        window: The window, without causal padding.
        context: Properties of the device.
        groups: Number of groups that channels and filters are split into.
    """
    dtype = accumulation_dtype(cotangent.dtype)
    inputs, cotangent = tf.cast(inputs, dtype), tf.cast(cotangent, dtype)
    flat = flatten_positions(cotangent)
    features, filters = window.offsets * inputs.shape[-1] // groups, cotangent.shape[-1] // groups
    late = gram_is_cheaper(flat.shape[1], features, filters)
    # Grouped, dilated and three-dimensional filter gradients are slow on a CPU or missing.
    plain = groups == 1 and not window.dilated and len(window.size) <= 2
    if plain and late and None not in inputs.shape[1:]:
        return InputGram(inputs, cotangent, window)
    if plain and not late and context.loop:
        return FilterGradients(inputs, cotangent, window)
    seen = flatten_positions(patches(inputs, window))
    if groups == 1:
        return OuterProduct(seen, flat)
    return GroupedOuterProduct(by_group(seen, groups, window.offsets), by_group(flat, groups))


class InputGram(PerExampleGradient):
    """Kernel gradients whose norm comes from Gram matrices, without patches.

    With patches ``P`` and output gradients ``D`` the squared norm is the sum over pairs of
    positions ``(t, s)`` of ``(P P^T)_ts (D D^T)_ts``. A patch is made of inputs, so ``P P^T`` is
    the Gram matrix of all inputs, shifted to each kernel offset and added up: that is less
    arithmetic than the Gram matrix of patches, by about the number of offsets.

    Args:
        inputs: Shape ``(batch, *axes, channels)`` with one or two axes of known length.
        cotangent: Gradient of the output, ``(batch, *positions, filters)``.
        window: The window, neither dilated nor with causal padding.
    """

    def __init__(self, inputs: tf.Tensor, cotangent: tf.Tensor, window: Window):
        super().__init__(inputs, cotangent)
        self._window = window
        self.positions = math.prod(cotangent.shape[1:-1])
        self.method = "gram"
        self.floats_per_example = math.prod(inputs.shape[1:-1]) ** 2 + 2 * self.positions**2

    def squared_norm(self) -> tf.Tensor:
        inputs, cotangent = self.tensors
        padded, indices = padded_with_indices(inputs, self._window)
        of_inputs = _gram(padded)
        of_patches = tf.add_n([of_inputs[(slice(None), *index, *index)] for index in indices])
        product = of_patches * _gram(cotangent)
        # The sum is a squared norm; rounding may leave it a hair below zero.
        return tf.nn.relu(tf.reduce_sum(product, axis=range(1, product.shape.rank)))

    def weighted_sum(self, weights: tf.Tensor) -> tf.Tensor:
        inputs, cotangent = self.tensors
        scaled = scale_rows(cotangent, tf.cast(weights, cotangent.dtype))
        return filter_gradient(*with_two_axes(self._window, inputs, scaled))

    def materialize(self) -> tf.Tensor:
        return self._of_patches().materialize()

    def merged(self, count: int) -> PerExampleGradient:
        return self._of_patches().merged(count)

    def _of_patches(self) -> OuterProduct:
        inputs, cotangent = self.tensors
        seen = flatten_positions(patches(inputs, self._window))
        return OuterProduct(seen, flatten_positions(cotangent))


class FilterGradients(PerExampleGradient):
    """Kernel gradients by the ordinary filter gradient, one example after another.

    Args:
        inputs: Shape ``(batch, *axes, channels)`` with one or two axes.
        cotangent: Gradient of the output, ``(batch, *positions, filters)``.
        window: The window, not dilated.
        depthwise_multiplier: For depthwise convolution, its filters for each channel.
        rows: Consecutive rows that make one example. Defaults to 1.
    """

    method = "example loop"

    def __init__(
        self,
        inputs: tf.Tensor,
        cotangent: tf.Tensor,
        window: Window,
        depthwise_multiplier: int = 0,
        rows: int = 1,
    ):
        super().__init__(inputs, cotangent)
        self._window, self._multiplier, self._rows = window, depthwise_multiplier, rows
        self.positions = flatten_positions(cotangent).shape[1]
        if self.positions is not None:
            self.positions *= rows
        filters = depthwise_multiplier or cotangent.shape[-1]
        self.floats_per_example = window.offsets * inputs.shape[-1] * filters

    def materialize(self) -> tf.Tensor:
        if len(self.tensors) == 2:
            self.tensors = [
                filter_gradients_by_loop(
                    *self.tensors, self._window, self._multiplier, rows=self._rows
                )
            ]
        return self.tensors[0]

    def squared_norm(self) -> tf.Tensor:
        return sum_of_squares(self.materialize())

    def weighted_sum(self, weights: tf.Tensor) -> tf.Tensor:
        gradient = self.materialize()
        return tf.tensordot(tf.cast(weights, gradient.dtype), gradient, 1)

    def merged(self, count: int) -> PerExampleGradient:
        if len(self.tensors) != 2:  # Instantiated by now.
            return super().merged(count)
        rows = self._rows * count
        return FilterGradients(*self.tensors, self._window, self._multiplier, rows)


def _gram(tensor: tf.Tensor) -> tf.Tensor:
    """Inner products of all positions, ``(batch, *axes, *axes)``."""
    axes = tensor.shape[1:-1]
    flat = tf.reshape(tensor, [-1, math.prod(axes), tensor.shape[-1]])
    return tf.reshape(tf.matmul(flat, flat, transpose_b=True), [-1, *axes, *axes])


def filter_gradient(
    window: Window, tensors: tuple[tf.Tensor, tf.Tensor], depthwise_multiplier: int = 0
) -> tf.Tensor:
    """The ordinary gradient of a kernel, summed over the batch.

    Args:
        window: The window, with two axes and not dilated.
        tensors: Inputs and output gradients.
        depthwise_multiplier: For depthwise convolution, its filters for each channel.
    """
    inputs, cotangent = tensors
    if depthwise_multiplier:
        backprop = tf.raw_ops.DepthwiseConv2dNativeBackpropFilter
        filters = depthwise_multiplier
    else:
        backprop = tf.raw_ops.Conv2DBackpropFilter
        filters = cotangent.shape[-1]
    return backprop(
        input=inputs,
        filter_sizes=(*window.size, inputs.shape[-1], filters),
        out_backprop=cotangent,
        strides=[1, *window.strides, 1],
        padding=window.padding,
    )


#: Examples to one turn of the loop below: a turn costs as much as a small filter gradient.
EXAMPLES_PER_TURN = 8


def filter_gradients_by_loop(
    inputs: tf.Tensor,
    cotangent: tf.Tensor,
    window: Window,
    depthwise_multiplier: int = 0,
    rows: int = 1,
) -> tf.Tensor:
    """Kernel gradients one example after another, ``(examples, *size, channels, filters)``.

    Args:
        inputs: Shape ``(examples * rows, *axes, channels)`` with one or two axes.
        cotangent: Gradient of the output, ``(examples * rows, *positions, filters)``.
        window: The window, not dilated.
        depthwise_multiplier: For depthwise convolution, its filters for each channel.
        rows: Consecutive rows that make one example, whose gradients are added up.
    """
    window, tensors = with_two_axes(window, inputs, cotangent)
    filters = depthwise_multiplier or cotangent.shape[-1]
    shape = (*window.size, inputs.shape[-1], filters)
    batch = tf.shape(inputs)[0] // rows
    gradients = tf.TensorArray(inputs.dtype, size=batch, element_shape=shape)

    def turn(i, gradients, count):
        taken = slice(i * rows, (i + count) * rows)
        examples = zip(*(_split(tensor[taken], count, rows) for tensor in tensors), strict=True)
        for k, example in enumerate(examples):
            gradient = filter_gradient(window, example, depthwise_multiplier)
            gradients = gradients.write(i + k, gradient)
        return i + count, gradients

    many = EXAMPLES_PER_TURN
    i, gradients = tf.while_loop(
        lambda i, _: i + many <= batch, lambda i, g: turn(i, g, many), (0, gradients)
    )
    _, gradients = tf.while_loop(lambda i, _: i < batch, lambda i, g: turn(i, g, 1), (i, gradients))
    return gradients.stack()


def _split(tensor: tf.Tensor, count: int, rows: int) -> list[tf.Tensor]:
    return tf.split(tf.ensure_shape(tensor, [count * rows, *tensor.shape[1:]]), count)


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
