"""Records all that noise is added to while a pipeline runs, and repeats a run on a neighbour."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import random
import threading
from collections.abc import Iterator
from unittest import mock

import keras
import numpy as np
import tensorflow as tf

from tfdp import _entropy, _replicas, sampling, statistics
from tfdp.noise import DiscreteGaussianNoise, GaussianNoise
from tfdp.sampling import physical


@dataclasses.dataclass(frozen=True, eq=False)
class Addition:
    """Noise that was added once, on one replica.

    Attributes:
        source: Number of the object that added it, in the order of first use.
        replica: Number of the replica.
        stddev: What was asked for: the standard deviation of the noise on the sum over replicas.
        replicas: How many replicas were said to share it.
        shapes: Of the tensors.
        before: All numbers of the tensors without noise, float64.
        after: The same with noise.
    """

    source: int
    replica: int
    stddev: float
    replicas: int
    shapes: tuple[tuple[int, ...], ...]
    before: np.ndarray
    after: np.ndarray


class Recording:
    """What crosses the noise boundary in one run.

    Args:
        replayed: A recording whose noisy values take the place of this run's, so that the run goes
            the same way although its data differ. Defaults to ``None``: a run of its own.
    """

    def __init__(self, replayed: Recording | None = None):
        self._replayed = replayed
        self._sources: list[DiscreteGaussianNoise | GaussianNoise] = []
        self._values: dict[tuple[int, int], list] = collections.defaultdict(list)
        self._additions: dict[tuple[int, int], list[Addition]] = collections.defaultdict(list)
        self._lengths: dict[int, list] = collections.defaultdict(list)
        self._lock = threading.Lock()  # Replicas run in threads.

    @property
    def crossings(self) -> list[list[Addition]]:
        """Additions of all replicas that belong together, in the order of the first of them."""
        return list(self._additions.values())

    def add(self, original, noise, tensors, stddev, replicas=1):
        """Stands in for ``add`` of either source of noise."""
        noisy = original(noise, tensors, stddev, replicas)
        if not noisy:
            return noisy
        if not any(noise is known for known in self._sources):
            self._sources.append(noise)
        source = next(k for k, known in enumerate(self._sources) if noise is known)
        count = len(noisy)

        def record(replica, *values):
            before, after = values[:count], values[count:]
            return self._record(source, int(replica), stddev, replicas, before, after)

        passed = tf.numpy_function(
            record, [_replicas.number_of_replica(), *tensors, *noisy], [t.dtype for t in noisy]
        )
        passed = tf.nest.flatten(passed)  # A single one comes back without its list.
        return [tf.ensure_shape(value, t.shape) for value, t in zip(passed, noisy, strict=True)]

    def length(self, original, data):
        """Stands in for the length by which a batch is cut into physical ones.

        A run on a neighbour cuts where the other one did, so that the rows of the other examples
        keep their places, and with them their random numbers.
        """

        def record(replica, length):
            with self._lock:
                number = len(self._lengths[int(replica)])
                self._lengths[int(replica)].append(length)
            if self._replayed is None:
                return length
            return (*self._replayed._lengths[int(replica)][number : number + 1], length)[0]

        length = tf.numpy_function(
            record, [_replicas.number_of_replica(), original(data)], tf.int32
        )
        return tf.ensure_shape(length, [])

    def _record(self, source, replica, stddev, replicas, before, after):
        values = [np.array(value) for value in after]  # A copy: TensorFlow reuses its memory.
        shapes = tuple(value.shape for value in values)
        before, after = _flat(before), _flat(after)
        addition = Addition(source, replica, stddev, replicas, shapes, before, after)
        with self._lock:
            number = len(self._values[source, replica])
            self._values[source, replica].append(values)
            self._additions[source, number].append(addition)
        if self._replayed is None:
            return values
        known = self._replayed._values[source, replica][number : number + 1]
        return known[0] if known and shapes == tuple(v.shape for v in known[0]) else values


@contextlib.contextmanager
def recorded(
    seed: int, *, without_last: bool = False, replayed: Recording | None = None
) -> Iterator[Recording]:
    """Records what runs inside, on known randomness, on all examples or on all but the last.

    Args:
        seed: Of all randomness: of Keras, TensorFlow, NumPy, and of what tfdp takes from the
            operating system.
        without_last: Whether the last example of each private data set is kept out of all samples.
            The number of examples, and so the sampling probability, stays.
        replayed: As of `Recording`.

    Yields:
        The recording.
    """
    recording = Recording(replayed)
    bits = random.Random(seed)
    keras.utils.set_random_seed(seed)
    with contextlib.ExitStack() as stack:

        def replace(owner, name, function):
            original = getattr(owner, name)

            @functools.wraps(original)
            def stand_in(*args, **kwargs):
                return function(original, *args, **kwargs)

            stack.enter_context(mock.patch.object(owner, name, stand_in))

        replace(_entropy, "signed_64_bits", lambda _: bits.getrandbits(64) - 2**63)
        for source in (GaussianNoise, DiscreteGaussianNoise):
            replace(source, "add", recording.add)
        replace(physical, "batch_length", recording.length)
        # Whether or not any will be empty: the random numbers of a layer depend on the graph.
        replace(sampling, "sum_over_physical_batches", _sum_without_empty)
        if without_last:
            replace(sampling, "poisson_indices", _sample_without_last)
            replace(sampling.PoissonDataset, "_draw", _draw_without_last)
            replace(sampling.PoissonDataset, "_batch", _batch_without_last)
            replace(statistics, "_blocks", lambda original, x: original(x[:-1]))
        yield recording


def _sample_without_last(original, num_examples, *args, **kwargs):
    return _without(num_examples - 1, original(num_examples, *args, **kwargs))


def _draw_without_last(original, data, seed):
    return _without(data.num_examples - 1, original(data, seed))


def _batch_without_last(original, data, indices, capacity):
    return original(data, _without(data.num_examples - 1, indices), capacity)


def _sum_without_empty(original, data, size, step, zeros, *, static, **kwargs):
    """Runs the step on a row of zeros, for nothing, where a slice has lost its only example.

    No training runs a step on nothing, which not all of TensorFlow's kernels can; but this one must
    draw the random numbers of a row, so that the steps to come draw theirs.
    """

    def sums(part):
        there = tf.shape(keras.tree.flatten(part)[0])[0] > 0
        rows = tf.cast(tf.logical_not(there), tf.int32)
        filled = keras.tree.map_structure(
            lambda t: None if t is None else tf.pad(t, [[0, rows]] + [[0, 0]] * (t.shape.rank - 1)),
            part,
        )
        return [tf.where(there, total, tf.zeros_like(total)) for total in step(filled)]

    return original(data, size, step if static else sums, zeros, static=static, **kwargs)


def _without(index, indices: tf.Tensor) -> tf.Tensor:
    return tf.boolean_mask(indices, indices != tf.cast(index, indices.dtype))


def _flat(values) -> np.ndarray:
    return np.concatenate([np.asarray(value, np.float64).ravel() for value in values])
