"""Kernels that enter a layer by an einsum: per-example gradients by axis labels.

Axes are named by single letters. The batch is ``"A"``, the first axis of both sides.
"""

from __future__ import annotations

import math

import tensorflow as tf

from tfdp.clipping.per_example import (
    Instantiated,
    OuterProduct,
    PerExampleGradient,
    accumulation_dtype,
)

BATCH = "A"


class PermutedOuterProduct(OuterProduct):
    """An outer product of several axes on each side, in the order of the kernel's axes.

    Args:
        left: Shape ``(batch, [positions,] left size)``.
        right: Shape ``(batch, [positions,] right size)``.
        shape: Sizes of the left axes, then of the right axes.
        permutation: The kernel's axes, as indices into ``shape``.
    """

    def __init__(self, left: tf.Tensor, right: tf.Tensor, shape: list[int], permutation: list[int]):
        super().__init__(left, right)
        self._shape = shape
        self._permutation = permutation

    def weighted_sum(self, weights: tf.Tensor) -> tf.Tensor:
        total = tf.reshape(super().weighted_sum(weights), self._shape)
        return tf.transpose(total, self._permutation)

    def joined(self, others: list[PerExampleGradient]) -> PerExampleGradient | None:
        del others  # They may be permuted in another way.
        return None

    def _of_same_kind(self, left: tf.Tensor, right: tf.Tensor) -> OuterProduct:
        return PermutedOuterProduct(left, right, self._shape, self._permutation)

    def materialize(self) -> tf.Tensor:
        gradient = tf.reshape(super().materialize(), [-1, *self._shape])
        return tf.transpose(gradient, [0, *(1 + axis for axis in self._permutation)])


def kernel_gradient(
    left: tf.Tensor,
    left_labels: str,
    right: tf.Tensor,
    right_labels: str,
    kernel_labels: str,
) -> PerExampleGradient:
    """Per-example gradients ``einsum(left, right -> batch + kernel)`` in the cheapest form.

    Args:
        left: What the kernel was multiplied with, or anything in its place.
        left_labels: Its axes; the batch first.
        right: Gradient with respect to the product.
        right_labels: Its axes; the batch first.
        kernel_labels: The axes of the result after the batch. Axes of ``left`` and ``right``
            that are not among them are summed over.

    Returns:
        An outer product over the summed axes that both sides have, if the kernel's axes are
        divided between the sides; otherwise (an axis on both, or summed on one side alone) the
        instantiated gradients.
    """
    shared = set(left_labels) & set(right_labels) - {BATCH}
    positions = [label for label in left_labels if label in shared]
    left_only = [label for label in left_labels[1:] if label not in shared]
    right_only = [label for label in right_labels[1:] if label not in shared]
    divided = set(kernel_labels) == {*left_only, *right_only} and not shared & set(kernel_labels)
    if not divided:
        dtype = accumulation_dtype(right.dtype)
        left, right = tf.cast(left, dtype), tf.cast(right, dtype)
        equation = f"{left_labels},{right_labels}->{BATCH}{kernel_labels}"
        count = math.prod(_sizes(left, left_labels, positions))
        return Instantiated(tf.einsum(equation, left, right), positions=count)
    order = [*left_only, *right_only]
    sizes = _sizes(left, left_labels, left_only) + _sizes(right, right_labels, right_only)
    left = _arrange(left, left_labels, positions, left_only)
    right = _arrange(right, right_labels, positions, right_only)
    permutation = [order.index(label) for label in kernel_labels]
    if permutation == list(range(len(order))):
        return OuterProduct(left, right)
    return PermutedOuterProduct(left, right, sizes, permutation)


def _sizes(tensor: tf.Tensor, labels: str, wanted: list[str]) -> list[int]:
    return [tensor.shape[labels.index(label)] for label in wanted]


def _arrange(tensor: tf.Tensor, labels: str, positions: list[str], rest: list[str]) -> tf.Tensor:
    """Transposes and reshapes to ``(batch, [positions,] rest)``."""
    order = [0, *(labels.index(label) for label in [*positions, *rest])]
    if order != list(range(len(order))):
        tensor = tf.transpose(tensor, order)
    shape = tf.shape(tensor)
    width = math.prod(tensor.shape[1 + len(positions) :])
    if not positions:
        return tf.reshape(tensor, [shape[0], width])
    sizes = tensor.shape[1 : 1 + len(positions)]
    length = -1 if None in sizes else math.prod(sizes)
    return tf.reshape(tensor, [shape[0], length, width])


def lora_gradients(
    layer,
    inputs: tf.Tensor,
    input_labels: str,
    kernel_labels: str,
    cotangent: tf.Tensor,
    output_labels: str,
):
    """Gradients of the factors of ``kernel + alpha / rank * matmul(a, b)``.

    The full kernel's per-example gradient is never formed: ``b`` is moved to the side whose axis
    it replaces, which leaves products of the inputs and the output gradients with rank-sized
    tensors.

    Args:
        layer: A layer with ``lora_kernel_a``, ``lora_kernel_b``, ``lora_alpha``, ``lora_rank``.
        inputs: The layer's inputs.
        input_labels: Their axes.
        kernel_labels: The axes of the kernel; ``b`` has the last one.
        cotangent: Gradient with respect to the product of inputs and kernel.
        output_labels: Its axes.

    Yields:
        The two factors with their gradients.
    """
    dtype = tf.float32  # Keras keeps the factors in float32.
    scale = layer.lora_alpha / layer.lora_rank
    inputs = tf.cast(inputs, dtype)
    cotangent = tf.cast(cotangent, dtype) * scale
    a, b = (tf.convert_to_tensor(v) for v in (layer.lora_kernel_a, layer.lora_kernel_b))
    last, rank = kernel_labels[-1], "Z"
    sides = [(inputs, input_labels), (cotangent, output_labels)]
    # The side with the axis of `b`, and the other one.
    (near, near_labels), (far, far_labels) = sides if last in input_labels else sides[::-1]
    narrow_labels = near_labels.replace(last, rank)
    a_labels, b_labels = kernel_labels[:-1] + rank, rank + last
    narrow = tf.einsum(f"{near_labels},{b_labels}->{narrow_labels}", near, b)
    through = tf.einsum(f"{far_labels},{a_labels}->{narrow_labels}", far, a)
    yield (
        layer.lora_kernel_a,
        kernel_gradient(far, far_labels, narrow, narrow_labels, a_labels),
    )
    yield (
        layer.lora_kernel_b,
        kernel_gradient(through, narrow_labels, near, near_labels, b_labels),
    )
