"""Logical batches, cut into the physical batches that are held in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf


class Batch(NamedTuple):
    """A logical batch as a training step takes it.

    Attributes:
        examples: ``(x, y, sample_weight)``, or ``None`` where they are still to be read.
        valid: Boolean mask of the rows that are examples and not padding; ``None``: all are.
        indices: Which examples to read, int64; ``None`` where they are there.

    Example:
        >>> import tensorflow as tf
        >>> examples = tf.zeros([3, 2]), tf.zeros([3]), None
        >>> batch = Batch(examples, valid=tf.constant([True, True, False]))
        >>> batch.examples[0].shape, batch.indices
        (TensorShape([3, 2]), None)
    """

    examples: tuple | None
    valid: tf.Tensor | None = None
    indices: tf.Tensor | None = None


def batch_length(data: Any) -> tf.Tensor:
    """Length of the first axis of a nested structure of tensors, as a scalar tensor.

    Args:
        data: Nested tensors (or ``None``) with a common first axis; at least one tensor.

    Returns:
        An int32 scalar.

    Example:
        >>> import tensorflow as tf
        >>> int(batch_length({"x": tf.zeros([5, 2]), "y": None}))
        5
    """
    return tf.shape(_first_tensor(data))[0]


def _first_tensor(data: Any) -> tf.Tensor:
    return next(tensor for tensor in keras.tree.flatten(data) if tensor is not None)


# A physical batch has at least `SMALLEST` examples unless they hold more than `MOST_FLOATS`
# (1 GiB), and more, up to `LARGEST`, while they hold less than `FEW_FLOATS` (128 MiB): small
# batches pay for starting each operation, large ones fall out of the processor's caches. Sizes
# that are chosen are approximate: half of all Poisson samples are a little larger than expected,
# and cutting those in two would cost more than it saves.
LARGEST = 256
SMALLEST = 64
"""Examples in a physical batch, at least, unless so many would take more than 1 GiB."""
FEW_FLOATS, MOST_FLOATS = 2**25, 2**28


def choose_physical_batch_size(floats_per_example: int) -> int:
    """A physical batch size, a power of two, for examples that hold so many numbers each.

    Args:
        floats_per_example: Activations and gradients that are held for one example.

    Returns:
        A number of examples from 1 to 256.

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
    read: Callable[[Any, Any], Any] | None = None,
    static: bool = False,
    approximate: bool = False,
) -> list[tf.Tensor]:
    """Adds up what ``step`` returns on consecutive slices of a logical batch.

    The slices are as equal as they can be, so no padding is computed; they are taken one after
    another inside the compiled step, so that a logical batch of any length costs the memory of one
    slice. An empty batch runs no step.

    Args:
        data: Nested structure of tensors (or ``None``) with a common first axis.
        physical_batch_size: Longest slice, positive.
        step: From a slice of ``data`` to tensors of the shapes of ``zeros``.
        zeros: Where the sums start.
        read: From a slice, and the one that follows (empty after the last), to what ``step``
            gets. Defaults to ``None``: the slice itself.
        static: Whether all slices get one size, known when the step is traced, as XLA needs. The
            end is filled up with rows of zeros, which a mask in ``data`` must tell apart; the
            batch needs a static length, and ``physical_batch_size`` is a number. Defaults to
            ``False``.
        approximate: Whether slices are as near to ``physical_batch_size`` as can be, and up to
            half as long again, in place of at most as long. Not with ``static``. Defaults to
            ``False``.

    Returns:
        The sums.

    Example:
        >>> import tensorflow as tf
        >>> (total,) = sum_over_physical_batches(
        ...     tf.range(10.0), 4, lambda part: [tf.reduce_sum(part)], [tf.constant(0.0)])
        >>> float(total)
        45.0
    """
    if static:
        length = _first_tensor(data).shape[0]
        slices = -(-length // physical_batch_size)
        rows = -(-length // slices)
        data = _map(lambda tensor: _pad_rows(tensor, slices * rows), data)

        def cut(index):
            return _map(lambda tensor: _static_slice(tensor, index * rows, rows), data)
    else:
        length = batch_length(data)
        slices = (length + physical_batch_size - 1) // physical_batch_size
        if approximate:
            nearest = (length + physical_batch_size // 2) // physical_batch_size
            slices = tf.minimum(slices, tf.maximum(nearest, 1))

        def cut(index):
            # Slice k holds [k * length / slices, (k + 1) * length / slices).
            start = _proportion(index, length, slices)
            stop = _proportion(index + 1, length, slices)
            return _map(lambda tensor: tensor[start:stop], data)

    def body(index, sums):
        part = cut(index)
        if read is not None:
            part = read(part, cut(index + 1))
        return index + 1, [s + t for s, t in zip(sums, step(part), strict=True)]

    _, sums = tf.while_loop(
        lambda index, _: index < slices, body, (0, list(zeros)), parallel_iterations=1
    )
    return sums


def _map(function: Callable[[tf.Tensor], tf.Tensor], data: Any) -> Any:
    return keras.tree.map_structure(
        lambda tensor: None if tensor is None else function(tensor), data
    )


def _pad_rows(tensor: tf.Tensor, length: int) -> tf.Tensor:
    """Adds rows of zeros; in a mask of valid rows these are padding."""
    missing = length - tensor.shape[0]
    return tf.pad(tensor, [[0, missing]] + [[0, 0]] * (tensor.shape.rank - 1))


def _static_slice(tensor: tf.Tensor, start: tf.Tensor, length: int) -> tf.Tensor:
    # Beyond the end (what follows the last slice) it starts at the last possible row.
    start = tf.minimum(start, tensor.shape[0] - length)
    rest = tensor.shape.rank - 1
    return tf.slice(tensor, [start] + [0] * rest, [length] + [-1] * rest)


def _proportion(index: tf.Tensor, length: tf.Tensor, slices: tf.Tensor) -> tf.Tensor:
    product = tf.cast(index, tf.int64) * tf.cast(length, tf.int64)
    return tf.cast(product // tf.cast(slices, tf.int64), tf.int32)
