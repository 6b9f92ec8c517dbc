"""Logical batches, cut into the physical batches that are held in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf


def batch_length(data: Any) -> tf.Tensor:
    """Length of the first axis of a nested structure of tensors, as a scalar tensor."""
    tensors = [tensor for tensor in keras.tree.flatten(data) if tensor is not None]
    return tf.shape(tensors[0])[0]


#: A physical batch has at least `SMALLEST` examples unless they hold more than `MOST_FLOATS`
#: (1 GiB), and more, up to `LARGEST`, while they hold less than `FEW_FLOATS` (128 MiB): small
#: batches pay for starting each operation, large ones fall out of the processor's caches.
SMALLEST, LARGEST = 64, 256
FEW_FLOATS, MOST_FLOATS = 2**25, 2**28


def choose_physical_batch_size(floats_per_example: int) -> int:
    """A physical batch size, a power of two, for examples that hold so many numbers each.

    Args:
        floats_per_example: Activations and gradients that are held for one example.

    Example:
        >>> choose_physical_batch_size(30_000), choose_physical_batch_size(400_000)
        (256, 64)
    """
    size = LARGEST
    while size > SMALLEST and size * floats_per_example > FEW_FLOATS:
        size //= 2
    while size > 1 and size * floats_per_example > MOST_FLOATS:
        size //= 2
    return size


def sum_over_physical_batches(
    data: Any,
    physical_batch_size: int | tf.Tensor,
    step: Callable[[Any], Sequence[tf.Tensor]],
    zeros: Sequence[tf.Tensor],
) -> list[tf.Tensor]:
    """Adds up what ``step`` returns on consecutive slices of a logical batch.

    The slices are as equal as they can be and none is longer than ``physical_batch_size``, so no
    padding is computed; they are taken one after another inside the compiled step, so that a
    logical batch of any length costs the memory of one slice. An empty batch runs no step.

    Args:
        data: Nested structure of tensors (or ``None``) with a common first axis.
        physical_batch_size: Longest slice, positive.
        step: From a slice of ``data`` to tensors of the shapes of ``zeros``.
        zeros: Where the sums start.

    Returns:
        The sums.
    """
    length = batch_length(data)
    slices = (length + physical_batch_size - 1) // physical_batch_size

    def body(index, sums):
        # Slice k holds [k * length / slices, (k + 1) * length / slices).
        start = _proportion(index, length, slices)
        stop = _proportion(index + 1, length, slices)
        part = keras.tree.map_structure(
            lambda tensor: None if tensor is None else tensor[start:stop], data
        )
        return index + 1, [s + t for s, t in zip(sums, step(part), strict=True)]

    _, sums = tf.while_loop(
        lambda index, _: index < slices, body, (0, list(zeros)), parallel_iterations=1
    )
    return sums


def _proportion(index: tf.Tensor, length: tf.Tensor, slices: tf.Tensor) -> tf.Tensor:
    product = tf.cast(index, tf.int64) * tf.cast(length, tf.int64)
    return tf.cast(product // tf.cast(slices, tf.int64), tf.int32)
