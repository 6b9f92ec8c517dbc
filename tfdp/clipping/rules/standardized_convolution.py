"""Convolution with standardized weights.

The layer convolves with ``gain * unit``, where ``unit = centred * scale`` is made of a filter's
centred weights and ``scale`` of the inverse of their norm. With the gradient ``G`` of a filter that
is used, which the rules of convolution give, the gradients of the gain and of the filter's own
weights are, filter by filter,

    ``<unit, G>``    and    ``gain * scale * (G - mean(G) - <unit, G> unit)``.

Both are linear in ``G``, with factors that all examples share: the second is a projection, which
takes out what standardization would undo, and a scale.
"""

from __future__ import annotations

import dataclasses

import keras
import tensorflow as tf

from tfdp.clipping.per_example import (
    Instantiated,
    PerExampleGradient,
    accumulation_dtype,
    gram_is_cheaper,
)
from tfdp.clipping.registry import Call, Context, Rule, register_rule
from tfdp.clipping.rules.convolution import kernel_gradient, refusal_of_any
from tfdp.clipping.rules.dense import flatten_positions, sum_over_positions
from tfdp.clipping.rules.windows import Window, channels_last, image_input, padded_with_indices
from tfdp.layers import WeightStandardizedConv2D
from tfdp.layers.standardized_conv2d import standardize

#: Filters with fewer weights lose so much of a gradient to the projection that its norm is not
#: told as a difference; all of it, where there are one or two.
FEWEST_WEIGHTS_FOR_GRAM = 16
#: By how much a squared norm in float32 can be wrong, relative to itself.
ROUNDING = 1e-6


@register_rule(WeightStandardizedConv2D)
class StandardizedConvolutionRule(Rule):
    """``activation(conv(inputs, gain * unit) + bias)``; without a bias in either data format."""

    ends_with_activation = True

    def refusal(self, layer: keras.layers.Layer) -> str | None:
        base = WeightStandardizedConv2D
        if getattr(layer.convolution_op, "__func__", None) is not base.convolution_op:
            return "it overrides `convolution_op`"
        if type(layer).kernel is not base.kernel:
            return "it overrides `kernel`"
        if layer.lora_enabled:
            return "its standardized kernel has LoRA factors"
        return refusal_of_any(layer)

    def gradients(self, call: Call, cotangent: tf.Tensor, context: Context):
        layer = call.layer
        dtype = accumulation_dtype(cotangent.dtype)
        inputs = tf.cast(image_input(call), dtype)
        cotangent = channels_last(layer, tf.cast(cotangent, dtype))
        filters = StandardizedFilters.of(layer, dtype)
        positions = flatten_positions(cotangent).shape[1]
        late = gram_is_cheaper(positions, filters.weights, cotangent.shape[-1])
        if late and layer.groups == 1 and filters.weights >= FEWEST_WEIGHTS_FOR_GRAM:
            kernel, gain = gram(filters, inputs, cotangent, Window.of(layer), context)
        else:
            of_used = kernel_gradient(inputs, cotangent, Window.of(layer), context, layer.groups)
            kernel, gain = instantiate(filters, of_used)
        yield layer.kernel, kernel
        if layer.gain is not None:
            yield layer.gain, Instantiated(gain, method="sum")
        if layer.use_bias:
            yield layer.bias, sum_over_positions(cotangent)


@dataclasses.dataclass(frozen=True)
class StandardizedFilters:
    """The filters that a layer uses, and how they follow from its weights.

    Attributes:
        unit: Standardized filters without their gains, ``(*size, channels, filters)``.
        scale: ``gain * scale`` of each filter, ``(filters,)``.
    """

    unit: tf.Tensor
    scale: tf.Tensor

    @classmethod
    def of(cls, layer: WeightStandardizedConv2D, dtype: tf.DType) -> StandardizedFilters:
        """The filters of a layer, from its weights as the forward pass rounds them."""

        def rounded(variable):
            return tf.cast(tf.cast(variable, layer.compute_dtype), dtype)

        unit, scale = standardize(rounded(layer.kernel), layer.epsilon)
        return cls(unit, scale if layer.gain is None else scale * rounded(layer.gain))

    @property
    def weights(self) -> int:
        """How many weights a filter has."""
        return self.matrix.shape[0]

    @property
    def matrix(self) -> tf.Tensor:
        """``unit`` with one column a filter."""
        return tf.reshape(self.unit, [-1, self.unit.shape[-1]])

    def project(self, gradient: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Takes means, and what lies along ``unit``, out of gradients of the filters used.

        Args:
            gradient: Gradients, in the order of the kernel's weights; of one or more kernels.

        Returns:
            What remains, ``(kernels, weights, filters)``, and the part along ``unit``,
            ``(kernels, filters)``.
        """
        unit = self.matrix
        gradient = tf.reshape(gradient, [-1, *unit.shape])
        along = tf.reduce_sum(unit * gradient, 1, keepdims=True)
        mean = tf.reduce_mean(gradient, 1, keepdims=True)
        return gradient - mean - unit * along, tf.squeeze(along, 1)


def instantiate(
    filters: StandardizedFilters, of_used: PerExampleGradient
) -> tuple[PerExampleGradient, tf.Tensor]:
    """Gradients of kernel and gains, from those of the filters used as they are.

    Args:
        filters: The layer's filters.
        of_used: Per-example gradients of the filters used.

    Returns:
        The kernel's gradients, and those of the gains, ``(batch, filters)``.
    """
    projected, along = filters.project(of_used.materialize())
    how = "instantiate" if "gram" in of_used.method else of_used.method
    kernel = Instantiated(
        projected * filters.scale, method=f"{how}, projected", positions=of_used.positions
    )
    return kernel, along


def gram(
    filters: StandardizedFilters,
    inputs: tf.Tensor,
    cotangent: tf.Tensor,
    window: Window,
    context: Context,
) -> tuple[PerExampleGradient, tf.Tensor]:
    """Gradients of kernel and gains of a late layer, of which no kernel gradient is held.

    Args:
        filters: The layer's filters.
        inputs: Shape ``(batch, height, width, channels)``.
        cotangent: Gradient of the output, ``(batch, *positions, filters)``.
        window: The window.
        context: Properties of the device.

    Returns:
        As `instantiate`.
    """
    # Filters that sum to zero do not see what all inputs have in common, padding included. Most
    # of the mean that is subtracted from squared norms below is gone with it, and so is most of
    # what the subtraction would lose to rounding.
    inputs, _ = padded_with_indices(inputs, window)
    inputs -= tf.reduce_mean(inputs, [1, 2, 3], keepdims=True)
    window = dataclasses.replace(window, padding="VALID")
    sums = keras.ops.conv(
        inputs,
        tf.concat([filters.unit, tf.ones_like(filters.unit[..., :1])], -1),
        strides=list(window.strides),
        padding="valid",
        dilation_rate=window.dilation,
        data_format="channels_last",
    )
    along, total = (
        tf.reduce_sum(cotangent * part, [1, 2]) for part in (sums[..., :-1], sums[..., -1:])
    )
    scaled = kernel_gradient(inputs, cotangent * filters.scale, window, context)
    return ProjectedGram(scaled, filters, along, total), along


class ProjectedGram(PerExampleGradient):
    """Kernel gradients whose squared norm is that before the projection, less what it takes out.

    Args:
        scaled: Gradients of the filters used, times their scale.
        filters: The layer's filters.
        along: Gradients of the gains, ``(batch, filters)``.
        total: Sums of the gradients of each filter used, ``(batch, filters)``.
    """

    def __init__(
        self,
        scaled: PerExampleGradient,
        filters: StandardizedFilters,
        along: tf.Tensor,
        total: tf.Tensor,
    ):
        self._scaled = scaled
        self._filters = filters
        self._along, self._total = along, total
        self.method = f"{scaled.method}, projected"
        self.positions = scaled.positions
        self.floats_per_example = scaled.floats_per_example

    @property
    def tensors(self) -> list[tf.Tensor]:
        """The factors of the gradients before the projection."""
        return self._scaled.tensors

    @tensors.setter
    def tensors(self, tensors: list[tf.Tensor]) -> None:
        self._scaled.tensors = tensors

    def squared_norm(self) -> tf.Tensor:
        filters = self._filters
        length = tf.reduce_sum(tf.square(filters.matrix), 0)  # One, but for epsilon.
        outside = tf.square(self._total) / filters.weights + (2 - length) * tf.square(self._along)
        outside = tf.reduce_sum(tf.square(filters.scale) * outside, 1)
        # Where little remains, rounding could make it seem shorter than it is, and the clip bound
        # would not hold: what rounding can take away is added.
        whole = self._scaled.squared_norm()
        return tf.nn.relu(whole - outside) + ROUNDING * whole

    def weighted_sum(self, weights: tf.Tensor) -> tf.Tensor:
        projected, _ = self._filters.project(self._scaled.weighted_sum(weights))
        return projected

    def materialize(self) -> tf.Tensor:
        projected, _ = self._filters.project(self._scaled.materialize())
        return projected

    def merged(self, count: int) -> PerExampleGradient:
        along, total = (
            tf.reduce_sum(tf.reshape(part, [-1, count, part.shape[1]]), 1)
            for part in (self._along, self._total)
        )
        return ProjectedGram(self._scaled.merged(count), self._filters, along, total)
