"""Where the rows of a batch come from: arrays in memory, or a random-access source."""

from __future__ import annotations

import concurrent.futures
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdp import _validate

_MOST_AHEAD = 16  # physical batches; replicas of one process read one ahead each


class ArrayRows:
    """Rows of arrays with a common first axis, gathered in the graph.

    Args:
        data: ``(x, y, sample_weight)``: nested arrays or ``None``.

    Raises:
        ValueError: If the arrays are empty, not numeric, or differ in length.
    """

    def __init__(self, data: tuple):
        if data[0] is None:
            raise _validate.type_error("x", None, "arrays")
        self._data = tuple(
            None
            if part is None
            else keras.tree.map_structure(functools.partial(_to_tensor, f"`{name}`"), part)
            for name, part in zip(("x", "y", "sample_weight"), data, strict=True)
        )
        self._length = _common_length(self._data)

    def __len__(self) -> int:
        return self._length

    def gather(self, indices: tf.Tensor) -> tuple:
        """The examples ``(x, y, sample_weight)`` of a vector of indices."""
        return keras.tree.map_structure(
            lambda part: None if part is None else tf.gather(part, indices), self._data
        )

    def first(self, count: int) -> tuple:
        """The first ``count`` examples."""
        return keras.tree.map_structure(
            lambda part: None if part is None else part[:count], self._data
        )


class SourceRows:
    """Rows of a random-access source, read and decoded in worker threads when they are needed.

    Args:
        source: Anything with ``len(source)`` and ``source[i]``; ``source.__getitems__(indices)``
            is used where there is one, as `tfds.data_source` has.
        transform: From an element to ``x``, ``(x,)``, ``(x, y)`` or ``(x, y, sample_weight)``;
            each a nested structure of arrays whose shapes are the same for every element.
            ``None``: the element is that already.
        num_workers: Threads that read.

    Raises:
        TypeError: If the source is not random-access, or ``transform`` is not callable.
        ValueError: If it is empty or its elements are not numeric.
    """

    def __init__(self, source: Any, transform: Callable | None, num_workers: int | None):
        for method in ("__len__", "__getitem__"):
            if not hasattr(source, method):
                raise TypeError(
                    "`source` needs len(source) and source[i]. "
                    f"Received: source of type {type(source).__name__}"
                )
        if transform is not None and not callable(transform):
            raise _validate.type_error("transform", transform, "callable or None")
        if num_workers is None:
            num_workers = os.cpu_count() or 1
        self._workers = _validate.integer("num_workers", num_workers, minimum=1)
        self._source, self._transform = source, transform
        if not len(source):
            raise ValueError("There are no examples. Received: a `source` of length 0")
        self._pool: concurrent.futures.ThreadPoolExecutor | None = None
        # What is being read for later, by its indices: of each replica that reads here.
        self._ahead: dict[bytes, list[concurrent.futures.Future]] = {}
        first = self._example(self._read([0])[0])
        self._structure = first
        #: Shape and dtype of every array of one example.
        self.signature = _signature(_arrays(first))

    def __len__(self) -> int:
        return len(self._source)

    def gather(self, indices: tf.Tensor, upcoming: tf.Tensor | None = None) -> tuple:
        """The examples of a vector of indices.

        Args:
            indices: Which, int64.
            upcoming: Which will be asked for next: reading them begins now. Defaults to none.

        Returns:
            ``(x, y, sample_weight)`` with the rows along the first axis.
        """
        if upcoming is None:
            upcoming = tf.zeros([0], tf.int64)
        dtypes = [tf.dtypes.as_dtype(dtype) for _, dtype in self.signature]
        flat = tf.numpy_function(self._batch, [indices, upcoming], dtypes)
        length = tf.get_static_value(tf.shape(indices)[0])
        for tensor, (shape, _) in zip(flat, self.signature, strict=True):
            tensor.set_shape([length, *shape])
        return self._packed(flat)

    def first(self, count: int) -> tuple:
        """The first ``count`` examples."""
        examples = self._examples(range(min(count, len(self))))
        return self._packed([tf.constant(column) for column in self._stack(examples)])

    def _batch(self, indices: np.ndarray, upcoming: np.ndarray) -> list[np.ndarray]:
        futures = self._ahead.pop(indices.tobytes(), None) or self._submit(indices)
        if len(upcoming):
            while len(self._ahead) >= _MOST_AHEAD:  # Left over where training was broken off.
                self._ahead.pop(next(iter(self._ahead)), None)
            self._ahead[upcoming.tobytes()] = self._submit(upcoming)
        return self._stack([example for future in futures for example in future.result()])

    def _submit(self, indices: np.ndarray) -> list[concurrent.futures.Future]:
        """Shares the reading of some rows out among the threads, in order."""
        if self._pool is None:
            self._pool = concurrent.futures.ThreadPoolExecutor(
                self._workers, thread_name_prefix="tfdp_read"
            )
        parts = np.array_split(indices, max(1, min(4 * self._workers, len(indices))))
        return [self._pool.submit(self._examples, part.tolist()) for part in parts]

    def _examples(self, indices: Sequence[int]) -> list[list[np.ndarray]]:
        """The arrays of each example, flat and in the order of the signature."""
        examples = [_arrays(self._example(element)) for element in self._read(indices)]
        for example in examples:
            if _signature(example) != self.signature:
                raise ValueError(
                    "All elements of a source need the shapes and dtypes of its first one, "
                    f"{self.signature}: resize or pad them in `transform`. "
                    f"Received: {_signature(example)}"
                )
        return examples

    def _read(self, indices: Sequence[int]) -> list[Any]:
        if not len(indices):
            return []
        if hasattr(self._source, "__getitems__"):
            return list(self._source.__getitems__(list(indices)))
        return [self._source[index] for index in indices]

    def _example(self, element: Any) -> tuple:
        if self._transform is not None:
            element = self._transform(element)
        if not isinstance(element, tuple):
            element = (element,)
        if not 1 <= len(element) <= 3:
            raise ValueError(
                "An element must be x, (x, y) or (x, y, sample_weight). "
                f"Received: a tuple of {len(element)}"
            )
        if element[0] is None:
            raise TypeError(
                "An element of `source`, after `transform`, must be x, (x, y) or "
                "(x, y, sample_weight). Received: x=None"
            )
        element = (*element, *[None] * (3 - len(element)))
        whose = "An element of `source`, after `transform`,"
        return keras.tree.map_structure(
            lambda a: None if a is None else _to_array(whose, a), element
        )

    def _stack(self, examples: Sequence[list[np.ndarray]]) -> list[np.ndarray]:
        if examples:
            return [np.stack(column) for column in zip(*examples, strict=True)]
        return [np.zeros((0, *shape), dtype) for shape, dtype in self.signature]

    def _packed(self, columns: Sequence[tf.Tensor]) -> tuple:
        remaining = iter(columns)
        return keras.tree.map_structure(
            lambda leaf: None if leaf is None else next(remaining), self._structure
        )


def _arrays(example: tuple) -> list[np.ndarray]:
    return [array for array in keras.tree.flatten(example) if array is not None]


def _signature(arrays: Sequence[np.ndarray]) -> tuple:
    return tuple((array.shape, array.dtype.name) for array in arrays)


def _to_array(whose: str, value: Any) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype == np.float64:
        array = array.astype(keras.config.floatx())
    if array.dtype.kind not in "biuf":
        raise ValueError(
            f"{whose} must be of numeric arrays. Received: an array of dtype {array.dtype}"
        )
    return array


def _to_tensor(whose: str, array: Any) -> tf.Tensor:
    if not isinstance(array, tf.Tensor):
        array = _to_array(whose, array)
    # Data stay in host memory: batches are gathered there and copied to the device one by one.
    with tf.device("CPU:0"):
        return tf.convert_to_tensor(array)


def _common_length(data: tuple) -> int:
    tensors = [t for t in keras.tree.flatten(data) if t is not None]
    lengths = {int(t.shape[0]) if t.shape.rank else None for t in tensors}
    if len(lengths) != 1 or None in lengths:
        raise ValueError(
            "All arrays of `x`, `y` and `sample_weight` need the same first axis. "
            f"Received: arrays of shapes {[tuple(t.shape) for t in tensors]}"
        )
    (length,) = lengths
    if not length:
        raise ValueError("There are no examples in `x`. Received: arrays of length 0")
    return length
