"""Batches that the caller draws, with how they are drawn said out loud."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from tfdp import _validate
from tfdp.sampling.physical import Batch, batch_length
from tfdp.sampling.poisson import without_autotuning
from tfdp.sampling.scheme import DECLARABLE, Scheme


def declare(dataset: tf.data.Dataset, *, num_examples: int, batch_size: int, sampling: str):
    """Says how the batches of a `tf.data.Dataset` are drawn, so that they can be accounted for.

    tfdp cannot see how a data set was sampled, and takes your word for it; the privacy statement
    says so. What is charged is what is proven for the sampling that is declared:

    | sampling | a batch | charged |
    | --- | --- | --- |
    | ``"shuffled"`` | the next of a random order, anew each pass | one Gaussian release a pass |
    | ``"poisson"`` | every example by a coin flip | one subsampled Gaussian release a step |
    | ``"without_replacement"`` | a random subset, anew each step | its own bound (RDP), a step |
    | ``"full_batch"`` | every example | one Gaussian release a step |

    Each example is in one batch of a pass over shuffled data, so that to it the whole pass is one
    release, without amplification by sampling.

    For ``"shuffled"`` the statement also has the epsilon that Poisson samples of this size would
    have had, as an estimate: shuffling may protect less (Chua et al. 2024).

    Args:
        dataset: Batched ``x``, ``(x, y)`` or ``(x, y, sample_weight)``. It is repeated if it ends;
            shuffled data must be one pass, without ``repeat()``.
        num_examples: Number of private examples N that the batches are drawn from.
        batch_size: Examples in a batch (their mean, for ``"poisson"``): the constant that sums
            are divided by.
        sampling: One of the above.

    Returns:
        What ``fit`` takes as ``x``.

    Raises:
        TypeError: If ``dataset`` is not a `tf.data.Dataset`.
        ValueError: If a number is out of range, or the length of the data set contradicts them.

    Formal guarantee: if the batches are drawn as declared. For ``"shuffled"`` and
    ``"without_replacement"`` the number of examples is public, and neighbouring data sets replace
    one example by an empty one, whose gradient is zero.

    Example:
        >>> import tensorflow as tf, tfdp
        >>> data = tf.data.Dataset.from_tensor_slices(tf.zeros([100, 3])).shuffle(100).batch(10)
        >>> declared = tfdp.sampling.declare(
        ...     data, num_examples=100, batch_size=10, sampling="shuffled")
        >>> len(declared)
        10

    References:
        - Wang, Balle, Kasiviswanathan 2019, "Subsampled Rényi Differential Privacy and Analytical
          Moments Accountant", arXiv:1808.00087.
        - Chua et al. 2024, "How Private are DP-SGD Implementations?", arXiv:2403.17673.
    """
    return DeclaredDataset(dataset, num_examples, batch_size, sampling)


class DeclaredDataset:
    """Batches that the caller draws. Made by `declare`, whose arguments and guarantee it has.

    Attributes:
        num_examples: Number of examples N.
        expected_batch_size: Examples in a batch, or their mean.
        steps_per_epoch: Batches in an epoch; for shuffled data those of a pass.
        scheme: The `tfdp.sampling.Scheme` that was declared.

    Example:
        >>> import numpy as np, tensorflow as tf, tfdp
        >>> dataset = tf.data.Dataset.from_tensor_slices(np.zeros((100, 3))).shuffle(100).batch(20)
        >>> data = tfdp.sampling.declare(
        ...     dataset, num_examples=100, batch_size=20, sampling="shuffled")
        >>> data.steps_per_epoch, data.scheme.kind, data.scheme.declared
        (5, 'shuffled', True)
    """

    read = None
    source = None
    seed = None

    def __init__(self, dataset: tf.data.Dataset, num_examples: int, batch_size: int, sampling: str):
        if not isinstance(dataset, tf.data.Dataset):
            raise TypeError(
                "`dataset` must be a tf.data.Dataset (tf.data.Dataset.from_generator makes one of "
                f"a generator). Received: dataset of type {type(dataset).__name__}"
            )
        self.num_examples = _validate.integer("num_examples", num_examples, minimum=1)
        self.expected_batch_size = _validate.integer("batch_size", batch_size, minimum=1)
        kind = _validate.one_of("sampling", sampling, DECLARABLE)
        if self.expected_batch_size > self.num_examples:
            raise ValueError(
                f"A batch cannot exceed the {num_examples} examples. "
                f"Received: batch_size={batch_size}"
            )
        if kind == "full_batch" and self.expected_batch_size != self.num_examples:
            raise ValueError(
                f"A full batch holds all {num_examples} examples. Received: batch_size={batch_size}"
            )
        self.steps_per_epoch = math.ceil(self.num_examples / self.expected_batch_size)
        length = int(dataset.cardinality())
        if kind == "shuffled":
            self.steps_per_epoch = self._steps_of_a_pass(length)
        if length != tf.data.INFINITE_CARDINALITY:
            dataset = dataset.repeat()
        self._dataset = dataset
        self.scheme = Scheme(
            kind=kind,
            expected_batch_size=self.expected_batch_size,
            num_examples=self.num_examples,
            steps_per_pass=self.steps_per_epoch if kind == "shuffled" else 1,
            declared=True,
        )

    def _steps_of_a_pass(self, length: int) -> int:
        """Batches in which each example appears at most once."""
        fewest = max(1, self.num_examples // self.expected_batch_size)
        if length == tf.data.INFINITE_CARDINALITY:
            raise ValueError(
                "Shuffled data are declared one pass long, without repeat(): where passes run into "
                "each other an example can be in a batch, or in a pass, twice. "
                "Received: an endless dataset"
            )
        if length == tf.data.UNKNOWN_CARDINALITY:
            raise ValueError(
                "The length of `dataset` must be known, to count passes over shuffled data: "
                "dataset.apply(tf.data.experimental.assert_cardinality(number_of_batches)). "
                "Received: a dataset of unknown cardinality"
            )
        if length not in (fewest, math.ceil(self.num_examples / self.expected_batch_size)):
            raise ValueError(
                f"num_examples={self.num_examples} in batches of "
                f"batch_size={self.expected_batch_size} make {fewest} batches. "
                f"Received: a dataset of {length} batches"
            )
        return length

    def __len__(self) -> int:
        return self.steps_per_epoch

    def steps_of_epoch(self, steps_per_epoch: int | None, steps_per_execution: int) -> int:
        """Steps of an epoch of ``fit``: as asked for, or a pass over the data.

        Raises:
            ValueError: If steps would run beyond an epoch, or shuffled data beyond a pass.
        """
        if steps_per_epoch is None:
            steps_per_epoch = self.steps_per_epoch
        steps_per_epoch = _validate.integer("steps_per_epoch", steps_per_epoch, minimum=1)
        if self.scheme.kind == "shuffled" and steps_per_epoch > self.steps_per_epoch:
            raise ValueError(
                f"A pass over these shuffled data has {self.steps_per_epoch} steps. "
                f"Received: steps_per_epoch={steps_per_epoch}"
            )
        if steps_per_epoch % steps_per_execution:
            raise ValueError(
                "Steps run `steps_per_execution` at a time, which would go on beyond an epoch of "
                f"{steps_per_epoch} steps. Received: steps_per_execution={steps_per_execution}"
            )
        return steps_per_epoch

    def first_examples(self, count: int = 1) -> tuple:
        """Examples ``(x, y, sample_weight)`` of a batch: to build a model, not to train it."""
        count = _validate.integer("count", count, minimum=1)
        (element,) = self._dataset.take(1)
        return keras.tree.map_structure(
            lambda tensor: None if tensor is None else tensor[:count],
            keras.utils.unpack_x_y_sample_weight(element),
        )

    def as_batches(self, steps: int) -> tf.data.Dataset:
        """An endless `tf.data.Dataset` of `Batch`, what a private training step takes.

        Args:
            steps: Not used: an epoch goes on where the one before it ended.

        A batch that is longer than declared ends training before anything is computed from it,
        except for Poisson samples, whose size varies.
        """
        del steps
        limit = None if self.scheme.kind == "poisson" else self.expected_batch_size

        @tf.autograph.experimental.do_not_convert
        def batch(*element):
            examples = keras.utils.unpack_x_y_sample_weight(
                element if len(element) > 1 else element[0]
            )
            if limit is not None:
                short_enough = tf.debugging.assert_less_equal(
                    batch_length(examples),
                    limit,
                    f"A batch is longer than the declared batch_size={limit}.",
                )
                with tf.control_dependencies([short_enough]):
                    examples = keras.tree.map_structure(_identity, examples)
            return Batch(examples)

        return without_autotuning(self._dataset.map(batch))

    def scheme_of(self, shares: int) -> Scheme:
        """How batches are drawn: as declared, also where each is cut into shares."""
        del shares
        return self.scheme

    def as_shares(self, worker: int, workers: int, replicas: int) -> tf.data.Dataset:
        """An endless `tf.data.Dataset` of the parts of each batch, one for each replica in turn.

        Args:
            worker: Number of this worker, from 0.
            workers: How many there are; one.
            replicas: Of the worker.

        Raises:
            ValueError: If there are several workers: what each of them declares can be right, and
                an example in several of their batches all the same.
        """
        del worker
        if workers > 1:
            raise ValueError(
                "Declared data cannot be trained on by several workers, whose batches could share "
                "examples. Give `fit` arrays or a PoissonDataset. "
                f"Received: {workers} workers"
            )
        batches = self.as_batches(1)
        endless = tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)
        return without_autotuning(
            batches.flat_map(lambda batch: _slices(batch, replicas)).apply(endless)
        )


def _slices(batch: Batch, count: int) -> tf.data.Dataset:
    """A batch in so many parts, as equal as can be; those of a short one can be empty."""
    length = tf.cast(batch_length(batch.examples), tf.int64)

    def part(number):
        start, stop = length * number // count, length * (number + 1) // count
        return Batch(
            keras.tree.map_structure(
                lambda tensor: None if tensor is None else tensor[start:stop], batch.examples
            )
        )

    return tf.data.Dataset.range(count).map(part)


def _identity(value: Any) -> Any:
    return None if value is None else tf.identity(value)
