"""Poisson sampling: every example enters every batch independently with probability q."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfdp import _entropy, _validate
from tfdp.sampling.physical import Batch
from tfdp.sampling.rows import ArrayRows, SourceRows
from tfdp.sampling.scheme import Scheme


class PoissonDataset:
    """Batches drawn by Poisson sampling.

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
        capacity: Gives every batch this many rows, at least ``expected_batch_size``, for compilers
            and devices that need fixed shapes: samples are padded with rows that count for
            nothing, and cut to a random ``capacity`` of their examples where there are more. The
            accounting knows of the cut; `tfdp.accounting.capacity_for` gives a capacity at which
            it costs nothing to speak of. Defaults to ``None``: batches as they come.
        num_examples: For training on several hosts whose arrays are different parts of the data:
            the number of examples in all parts together. Defaults to ``None``: the arrays are all
            the data, and on several hosts the same on each.
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
        capacity: int | None = None,
        num_examples: int | None = None,
        seed: int | None = None,
    ):
        self._set_up(
            ArrayRows((x, y, sample_weight)),
            expected_batch_size,
            steps_per_epoch,
            capacity,
            num_examples,
            seed,
        )

    @classmethod
    def from_source(
        cls,
        source: Any,
        transform: Callable | None = None,
        *,
        expected_batch_size: int | None = None,
        steps_per_epoch: int | None = None,
        capacity: int | None = None,
        num_examples: int | None = None,
        seed: int | None = None,
        num_workers: int | None = None,
    ) -> PoissonDataset:
        """Batches of a random-access source, for data that do not fit into memory.

        Training reads one physical batch at a time, and the next one while it computes.

        Args:
            source: Anything with ``len(source)`` and ``source[i]``, for instance
                ``tfds.data_source("mnist", split="train")`` or an ArrayRecord file.
            transform: From an element of the source to ``x``, ``(x, y)`` or
                ``(x, y, sample_weight)``, as NumPy arrays whose shapes are the same for every
                element. Runs in the reading threads. Defaults to ``None``: elements as they are.
            expected_batch_size: As for arrays.
            steps_per_epoch: As for arrays.
            capacity: As for arrays.
            num_examples: As for arrays.
            seed: As for arrays.
            num_workers: Threads that read and transform. Defaults to the number of processors.

        Returns:
            A `PoissonDataset`.

        Raises:
            TypeError: If the source is not random-access.
            ValueError: If it is empty, its elements are not numeric, or a number is out of range.

        Example:
            >>> import numpy as np, tfdp
            >>> source = [{"image": np.zeros((8, 8)), "label": i % 10} for i in range(100)]
            >>> data = tfdp.sampling.PoissonDataset.from_source(
            ...     source, lambda e: (e["image"] / 255, e["label"]), expected_batch_size=10)
            >>> data.num_examples
            100
        """
        dataset = cls.__new__(cls)
        dataset._set_up(
            SourceRows(source, transform, num_workers),
            expected_batch_size,
            steps_per_epoch,
            capacity,
            num_examples,
            seed,
        )
        return dataset

    def _set_up(
        self,
        rows: ArrayRows | SourceRows,
        expected_batch_size: int | None,
        steps_per_epoch: int | None,
        capacity: int | None,
        num_examples: int | None,
        seed: int | None,
    ) -> None:
        self.rows = rows
        self.num_examples = len(rows)
        #: Whether the rows are a part of the examples, and other workers have the others.
        self.is_part = num_examples is not None
        if num_examples is not None:
            self.num_examples = _validate.integer("num_examples", num_examples, minimum=len(rows))
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
        if capacity is not None:
            capacity = _validate.integer("capacity", capacity, minimum=self.expected_batch_size)
            capacity = min(capacity, self.num_examples)
        self.capacity = capacity
        self.seed = None if seed is None else _validate.integer("seed", seed)

    @property
    def scheme(self) -> Scheme:
        """How batches are drawn."""
        return self.scheme_of(1)

    def scheme_of(self, shares: int) -> Scheme:
        """How batches are drawn from so many shares of the examples, each by itself.

        Without a capacity it makes no difference.
        """
        truncated = self.capacity is not None
        return Scheme(
            kind="truncated_poisson" if truncated else "poisson",
            expected_batch_size=self.expected_batch_size,
            num_examples=self.num_examples,
            capacity=self.capacity,
            shares=shares if truncated else 1,
        )

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self):
        return iter(self.as_tf_dataset().take(self.steps_per_epoch))

    def steps_of_epoch(self, steps_per_epoch: int | None, steps_per_execution: int) -> int:
        """Steps of an epoch of ``fit``: as asked for, or ``len`` of the data set."""
        del steps_per_execution  # The last execution of an epoch is a shorter one.
        if steps_per_epoch is None:
            return self.steps_per_epoch
        return _validate.integer("steps_per_epoch", steps_per_epoch, minimum=1)

    def first_examples(self, count: int = 1) -> tuple:
        """The first examples ``(x, y, sample_weight)``: to build a model, not to train it."""
        return self.rows.first(_validate.integer("count", count, minimum=1))

    def as_tf_dataset(self) -> tf.data.Dataset:
        """An endless `tf.data.Dataset` of ``(x, y, sample_weight)`` batches.

        ``y`` and ``sample_weight`` are left out from the end where they are ``None``. With a
        ``capacity`` batches are cut to it, and not padded.
        """

        def examples(indices):
            part = self.rows.gather(indices)
            while part[-1] is None:
                part = part[:-1]
            return part

        return self._drawn(lambda seed: examples(self._draw(seed)))

    def as_batches(self, steps: int) -> tf.data.Dataset:
        """A `tf.data.Dataset` of `Batch`, what a private training step takes.

        Args:
            steps: Its length. Iterated over again it draws other samples.
        """
        steps = _validate.integer("steps", steps, minimum=1)
        return self._drawn(lambda seed: self._batch(self._draw(seed), self.capacity), steps)

    def as_shares(self, worker: int, workers: int, replicas: int) -> tf.data.Dataset:
        """An endless `tf.data.Dataset` of what each replica of a worker takes, one after another.

        The rows are cut into as many shares as there are replicas. Each replica draws a Poisson
        sample of its own share, with the probability and independently of the others, so that
        together they have one of all rows. Where a replica has no example its `Batch` is empty.

        Args:
            worker: Number of this worker, from 0.
            workers: How many there are.
            replicas: Of each worker.
        """
        first, count = (0, replicas) if self.is_part else (worker * replicas, workers * replicas)
        edges = [len(self.rows) * share // count for share in range(count + 1)]
        starts = tf.constant(edges[first : first + replicas], tf.int64)
        stops = tf.constant(edges[first + 1 : first + replicas + 1], tf.int64)
        most = max(stop - start for start, stop in itertools.pairwise(edges))
        capacity = self.scheme_of(workers * replicas).share_capacity

        def share(seed, element):
            place = element % replicas
            start = starts[place]
            indices = poisson_indices(
                stops[place] - start, self.sampling_probability, seed, at_most=most
            )
            if capacity is not None:
                indices = _random_subset(indices, capacity, seed)
            return self._batch(start + indices, capacity)

        return self._drawn(share, numbered=True)

    def _batch(self, indices: tf.Tensor, capacity: int | None) -> Batch:
        valid = None
        if capacity is not None:
            indices, valid = _padded(indices, capacity)
        if isinstance(self.rows, SourceRows):
            return Batch(None, valid, indices)
        return Batch(self.rows.gather(indices), valid, None)

    @property
    def read(self) -> Callable | None:
        """From the indices of a `Batch`, and those that follow, to its examples.

        ``None`` if a `Batch` has its examples already.
        """
        return None if self.source is None else self.rows.gather

    @property
    def source(self) -> SourceRows | None:
        """What `read` reads from."""
        return self.rows if isinstance(self.rows, SourceRows) else None

    def _draw(self, seed: tf.Tensor) -> tf.Tensor:
        indices = poisson_indices(self.num_examples, self.sampling_probability, seed)
        if self.capacity is None:
            return indices
        return _random_subset(indices, self.capacity, seed)

    def _drawn(self, element: Callable, steps: int | None = None, numbered: bool = False):
        """A data set of ``element(seed)`` with a fresh seed each; endless without ``steps``.

        With ``numbered`` it is ``element(seed, number)``.
        """
        key = tf.constant(_entropy.fresh_seed() if self.seed is None else (self.seed, 0), tf.int64)
        fold_in = tf.random.experimental.stateless_fold_in
        iterations = tf.Variable(0, dtype=tf.int64, trainable=False)

        @tf.autograph.experimental.do_not_convert
        def iterate(_):
            fresh = fold_in(key, iterations.assign_add(1))
            numbers = tf.data.Dataset.counter() if steps is None else tf.data.Dataset.range(steps)
            return numbers.map(
                lambda step: element(fold_in(fresh, step), *([step] if numbered else []))
            )

        dataset = tf.data.Dataset.from_tensors(0).flat_map(iterate)
        length = tf.data.INFINITE_CARDINALITY if steps is None else steps
        dataset = dataset.apply(tf.data.experimental.assert_cardinality(length))
        return without_autotuning(dataset.prefetch(1))


def without_autotuning(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """A data set whose order is fixed and which is not tuned while it runs.

    Autotuning sleeps when an iterator is dropped, and one map has nothing to tune.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    options.deterministic = True
    return dataset.with_options(options)


def poisson_indices(
    num_examples: int | tf.Tensor, probability: float, seed: tf.Tensor, at_most: int | None = None
) -> tf.Tensor:
    """Indices of the examples in one Poisson sample, ascending.

    The gaps between successive included examples are geometric, so only about ``q N`` random
    numbers are drawn, however large N is.

    Args:
        num_examples: N, positive; a number or an int64 scalar.
        probability: q in (0, 1].
        seed: Two integers, as for `tf.random.stateless_uniform`.
        at_most: The largest N, where that is a tensor.

    Returns:
        A vector of int64 indices.

    Formal guarantee: with secret, uniformly random seeds every index is included independently with
    probability q, up to the 2^-52 resolution of the uniform numbers.

    Example:
        >>> import tensorflow as tf
        >>> poisson_indices(4, 1.0, tf.constant([1, 2], tf.int64)).numpy()
        array([0, 1, 2, 3])
    """
    if probability >= 1:
        return tf.range(num_examples, dtype=tf.int64)
    expected = (num_examples if at_most is None else at_most) * probability
    draws = int(expected + 6 * math.sqrt(expected) + 16)
    log_miss = math.log1p(-probability)

    def extend(round_number, last, indices):
        uniform = tf.random.stateless_uniform(
            [draws], tf.random.experimental.stateless_fold_in(seed, round_number), dtype=tf.float64
        )
        # In (0, 1]. A gap beyond the data set ends the sample; capping it keeps sums small.
        gaps = tf.floor(tf.math.log(1 - uniform) / log_miss) + 1
        gaps = tf.cast(tf.minimum(gaps, tf.cast(num_examples + 1, tf.float64)), tf.int64)
        found = last + tf.cumsum(gaps)
        return round_number + 1, found[-1], tf.concat([indices, found], 0)

    _, _, indices = tf.while_loop(
        lambda _, last, __: last < num_examples,
        extend,
        # Folding an int32 number into a seed would leave 32 bits of it.
        (tf.constant(0, tf.int64), tf.constant(-1, tf.int64), tf.zeros([0], tf.int64)),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([]), tf.TensorShape([None])),
    )
    return indices[: tf.math.count_nonzero(indices < num_examples)]


def _random_subset(indices: tf.Tensor, size: int, seed: tf.Tensor) -> tf.Tensor:
    """A uniformly random subset of at most ``size`` of the indices, ascending."""

    def cut():
        own_seed = tf.random.experimental.stateless_fold_in(seed, tf.constant(-1, tf.int64))
        order = tf.random.stateless_uniform(tf.shape(indices), own_seed, dtype=tf.float64)
        return tf.sort(tf.gather(indices, tf.argsort(order)[:size]))

    return tf.cond(tf.shape(indices)[0] > size, cut, lambda: indices)


def _padded(indices: tf.Tensor, length: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Indices filled up to ``length``, and which of them count."""
    count = tf.shape(indices)[0]
    filled = tf.pad(indices, [[0, length - count]])
    return tf.ensure_shape(filled, [length]), tf.range(length) < count
