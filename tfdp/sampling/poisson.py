"""Poisson sampling: every example enters every batch independently with probability q."""

from __future__ import annotations

import math
import secrets
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdp import _validate


class PoissonDataset:
    """Batches drawn by Poisson sampling from arrays, in the TensorFlow graph.

    At each step every example is included independently with probability
    ``q = expected_batch_size / num_examples``. Batches therefore differ in size, and one can be
    empty. This is the sampling that the privacy accounting assumes.

    Args:
        x: Array, or nested dictionary, list or tuple of arrays, with a common first axis.
        y: Targets in the same forms. Defaults to ``None``.
        sample_weight: Weights in the same forms. Defaults to ``None``.
        expected_batch_size: Mean number of examples in a batch, at most ``num_examples``.
            Defaults to 32, or to all examples if there are fewer.
        steps_per_epoch: Batches in an epoch. Defaults to ``num_examples / expected_batch_size``,
            rounded up.
        seed: For tests only: fixes which examples are drawn, and the privacy statement then says
            "not private". Defaults to ``None``: from the operating system, new for every epoch.

    Attributes:
        num_examples: Number of examples N.
        sampling_probability: q.

    Raises:
        ValueError: If the arrays are empty or differ in length, or a number is out of range.

    Formal guarantee: inclusions are independent over examples and steps, with probability q up
    to the 2^-52 resolution of the uniform numbers they are drawn from.

    Example:
        >>> import numpy as np, tfdp
        >>> data = tfdp.sampling.PoissonDataset(np.zeros((100, 3)), expected_batch_size=10)
        >>> len(data), data.sampling_probability
        (10, 0.1)
    """

    def __init__(
        self,
        x: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        expected_batch_size: int | None = None,
        steps_per_epoch: int | None = None,
        seed: int | None = None,
    ):
        self._data = tuple(
            None if part is None else keras.tree.map_structure(_to_tensor, part)
            for part in (x, y, sample_weight)
        )
        self.num_examples = _common_length(self._data)
        if expected_batch_size is None:
            expected_batch_size = min(32, self.num_examples)
        self.expected_batch_size = _validate.integer(
            "expected_batch_size", expected_batch_size, minimum=1
        )
        if self.expected_batch_size > self.num_examples:
            raise ValueError(
                f"The expected batch cannot exceed the {self.num_examples} examples. "
                f"Received: expected_batch_size={expected_batch_size}"
            )
        self.sampling_probability = self.expected_batch_size / self.num_examples
        if steps_per_epoch is None:
            steps_per_epoch = math.ceil(self.num_examples / self.expected_batch_size)
        self.steps_per_epoch = _validate.integer("steps_per_epoch", steps_per_epoch, minimum=1)
        self.seed = None if seed is None else _validate.integer("seed", seed)

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self):
        return iter(self.as_tf_dataset().take(self.steps_per_epoch))

    def first_examples(self, count: int = 1) -> tuple:
        """The first examples ``(x, y, sample_weight)``: to build a model, not to train it."""
        return keras.tree.map_structure(lambda t: None if t is None else t[:count], self._data)

    def as_tf_dataset(self) -> tf.data.Dataset:
        """An endless `tf.data.Dataset` of ``(x, y, sample_weight)`` batches.

        ``y`` and ``sample_weight`` are left out from the end where they are ``None``.
        """
        if self.seed is None:
            key = tf.constant([_signed_64_bits(), _signed_64_bits()], tf.int64)
        else:
            key = tf.constant([self.seed, 0], tf.int64)
        data = self._data
        while data[-1] is None:
            data = data[:-1]

        @tf.autograph.experimental.do_not_convert
        def draw(step):
            seed = tf.random.experimental.stateless_fold_in(key, step)
            indices = poisson_indices(self.num_examples, self.sampling_probability, seed)
            return keras.tree.map_structure(lambda t: tf.gather(t, indices), data)

        options = tf.data.Options()
        # Autotuning sleeps when an iterator is dropped, and one map has nothing to tune.
        options.autotune.enabled = False
        options.deterministic = True
        return tf.data.Dataset.counter().map(draw).prefetch(1).with_options(options)


def poisson_indices(num_examples: int, probability: float, seed: tf.Tensor) -> tf.Tensor:
    """Indices of the examples in one Poisson sample, ascending.

    The gaps between successive included examples are geometric, so only about ``q N`` random
    numbers are drawn, however large N is.

    Args:
        num_examples: N, positive.
        probability: q in (0, 1].
        seed: Two integers, as for `tf.random.stateless_uniform`.

    Returns:
        A vector of int64 indices.
    """
    if probability >= 1:
        return tf.range(num_examples, dtype=tf.int64)
    expected = num_examples * probability
    draws = int(expected + 6 * math.sqrt(expected) + 16)
    log_miss = math.log1p(-probability)

    def extend(round_number, last, indices):
        uniform = tf.random.stateless_uniform(
            [draws], tf.random.experimental.stateless_fold_in(seed, round_number), dtype=tf.float64
        )
        # In (0, 1]. A gap beyond the data set ends the sample; capping it keeps sums small.
        gaps = tf.floor(tf.math.log(1 - uniform) / log_miss) + 1
        gaps = tf.cast(tf.minimum(gaps, num_examples + 1.0), tf.int64)
        found = last + tf.cumsum(gaps)
        return round_number + 1, found[-1], tf.concat([indices, found], 0)

    _, _, indices = tf.while_loop(
        lambda _, last, __: last < num_examples,
        extend,
        (tf.constant(0), tf.constant(-1, tf.int64), tf.zeros([0], tf.int64)),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([]), tf.TensorShape([None])),
    )
    return indices[: tf.math.count_nonzero(indices < num_examples)]


def _to_tensor(array: Any) -> tf.Tensor:
    if not isinstance(array, tf.Tensor):
        array = np.asarray(array)
        if array.dtype == np.float64:
            array = array.astype(keras.config.floatx())
        if array.dtype.kind not in "biuf":
            raise ValueError(
                f"Training data must be numeric arrays. Received: an array of dtype {array.dtype}"
            )
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
    if length == 0:
        raise ValueError("There are no examples to train on. Received: arrays of length 0")
    return length


def _signed_64_bits() -> int:
    return secrets.randbits(64) - 2**63
