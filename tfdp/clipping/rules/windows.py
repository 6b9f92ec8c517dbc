"""What the windows of a convolution see: the inputs that meet each weight of a kernel.

A convolution with input ``x``, kernel ``K`` and output ``y`` computes, with the stride ``s`` and
the dilation ``r``, ``y[t] = sum_o x[s t + r o] K[o]`` over the kernel's offsets ``o``, so that its
kernel's gradient at offset ``o`` is the sum over positions ``t`` of ``x[s t + r o] dy[t]``. All of
that is known from the strided slices of ``x`` that belong to the offsets; on a CPU, taking and
joining slices is also faster than TensorFlow's own extraction of patches (2-D and 3-D kernels of
27 offsets or fewer: 1.2 to 10 times).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator

import keras
import tensorflow as tf

from tfdp.clipping.registry import Call


@dataclasses.dataclass(frozen=True)
class Window:
    """How a kernel moves over its input.

    Attributes:
        size: Kernel size on each axis.
        strides: Step from one position to the next on each axis.
        dilation: Step from one weight to the next on each axis.
        padding: ``"SAME"``, ``"VALID"`` or, on one axis, ``"CAUSAL"``.
    """

    size: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: str

    @classmethod
    def of(cls, layer: keras.layers.Layer) -> Window:
        """The window of a Keras convolution."""
        return cls(
            tuple(layer.kernel_size),
            tuple(layer.strides),
            tuple(layer.dilation_rate),
            layer.padding.upper(),
        )

    @property
    def offsets(self) -> int:
        """How many weights a kernel has for one input channel and one filter."""
        return math.prod(self.size)

    @property
    def dilated(self) -> bool:
        return max(self.dilation) > 1

    @property
    def spans(self) -> tuple[int, ...]:
        """Inputs from a window's first to its last, on each axis."""
        return tuple((k - 1) * r + 1 for k, r in zip(self.size, self.dilation, strict=True))


def image_input(call: Call) -> tf.Tensor:
    """The input of a recorded convolution, with its channels last."""
    return channels_last(call.layer, call.input)


def channels_last(layer: keras.layers.Layer, tensor: tf.Tensor) -> tf.Tensor:
    """An input or an output of ``layer``, with its channels last."""
    if layer.data_format == "channels_last":
        return tensor
    rank = tensor.shape.rank
    return tf.transpose(tensor, [0, *range(2, rank), 1])


def without_causal_padding(inputs: tf.Tensor, window: Window) -> tuple[tf.Tensor, Window]:
    """The same convolution with the zeros of causal padding put before the inputs."""
    if window.padding != "CAUSAL":
        return inputs, window
    inputs = tf.pad(inputs, [[0, 0], [window.spans[0] - 1, 0], [0, 0]])
    return inputs, dataclasses.replace(window, padding="VALID")


def with_two_axes(window: Window, *tensors: tf.Tensor) -> tuple[Window, tuple[tf.Tensor, ...]]:
    """A one-dimensional window and its inputs and outputs with a unit axis before their own."""
    if len(window.size) == 2:
        return window, tensors
    (size,), (stride,), (dilation,) = window.size, window.strides, window.dilation
    # Equal strides: depthwise convolution demands them, and on a unit axis they change nothing.
    window = Window((1, size), (stride, stride), (1, dilation), window.padding)
    return window, tuple(tensor[:, None] for tensor in tensors)


def padded_with_indices(
    inputs: tf.Tensor, window: Window
) -> tuple[tf.Tensor, list[tuple[slice, ...]]]:
    """The padded inputs and, for each kernel offset in order, the indices of what it meets.

    Args:
        inputs: Shape ``(batch, *axes, channels)``.
        window: The window, without causal padding.

    Returns:
        Inputs with the padding that the window asks for, and a tuple of slices of their axes for
        each offset.
    """
    paddings, counts = [], []
    for axis, (span, stride) in enumerate(zip(window.spans, window.strides, strict=True), start=1):
        length = inputs.shape[axis]
        if length is None:
            length = tf.shape(inputs)[axis]
        if window.padding == "SAME":
            count = (length + stride - 1) // stride
            excess = (count - 1) * stride + span - length
            total = max(excess, 0) if isinstance(excess, int) else tf.maximum(excess, 0)
            paddings.append([total // 2, total - total // 2])
        else:
            count = (length - span) // stride + 1
            paddings.append([0, 0])
        counts.append(count)
    if window.padding == "SAME":
        inputs = tf.pad(inputs, [[0, 0], *paddings, [0, 0]])
    indices = []
    for offset in itertools.product(*map(range, window.size)):
        starts = [o * rate for o, rate in zip(offset, window.dilation, strict=True)]
        indices.append(
            tuple(
                slice(start, start + (count - 1) * stride + 1, stride)
                for start, stride, count in zip(starts, window.strides, counts, strict=True)
            )
        )
    return inputs, indices


def slices(inputs: tf.Tensor, window: Window) -> Iterator[tf.Tensor]:
    """For each kernel offset, in the kernel's order, the inputs that it meets.

    Args:
        inputs: Shape ``(batch, *axes, channels)``.
        window: The window, without causal padding.

    Yields:
        Tensors of shape ``(batch, *positions, channels)``.
    """
    padded, indices = padded_with_indices(inputs, window)
    for index in indices:
        yield padded[(slice(None), *index)]


#: Kernels with more offsets than this would make too large a graph of slices.
MOST_SLICES = 128


def patches(inputs: tf.Tensor, window: Window) -> tf.Tensor:
    """What each position sees, ``(batch, *positions, offsets * channels)``.

    Args:
        inputs: Shape ``(batch, *axes, channels)``.
        window: The window, without causal padding.

    Returns:
        The patches; their last axis is in the order of the kernel's first axes.
    """
    if window.offsets == 1:
        return next(slices(inputs, window))
    if window.offsets <= MOST_SLICES or len(window.size) > 2:
        return tf.concat(list(slices(inputs, window)), axis=-1)
    two_axes, (unit,) = with_two_axes(window, inputs)
    result = tf.image.extract_patches(
        unit,
        sizes=[1, *two_axes.size, 1],
        strides=[1, *two_axes.strides, 1],
        rates=[1, *two_axes.dilation, 1],
        padding=window.padding,
    )
    return result if unit is inputs else tf.squeeze(result, [1])
