"""Gaussian noise: where the randomness comes from and how it is scaled."""

from __future__ import annotations

import math

import tensorflow as tf

from tfdp import _entropy, _replicas, _validate


class GaussianNoise:
    """Independent Gaussian noise on a list of tensors.

    The key of the Philox streams comes from the operating system, new in every process. It is no
    part of any checkpoint: a run that resumes draws noise that was never used before. Each call,
    each replica and each tensor has a stream of its own.

    Args:
        seed: For tests only: a fixed seed makes the noise known, and a model trained with it is
            not private. Defaults to ``None``, a fresh seed.

    Raises:
        TypeError: If ``seed`` is not an integer.

    Formal guarantee: what `add` returns is ``tensors + N(0, stddev^2 I)``, in floating-point
    arithmetic and as far as Philox with a secret seed of 128 bits cannot be told from true
    randomness. An attacker who can see the lowest bits of the numbers is outside of it.

    Example:
        >>> import tensorflow as tf, tfdp
        >>> (noisy,) = tfdp.noise.GaussianNoise().add([tf.zeros([10_000])], stddev=2.0)
        >>> bool(1.8 < tf.math.reduce_std(noisy) < 2.2)
        True

    References:
        - Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3": Philox.
        - Mironov 2012, "On Significance of the Least Significant Bits for Differential Privacy".
    """

    def __init__(self, seed: int | None = None):
        self.seed = None if seed is None else _validate.integer("seed", seed)
        self._key = _entropy.fresh_seed() if seed is None else (self.seed, 0)
        self._calls = _replicas.counter()

    def add(self, tensors: list[tf.Tensor], stddev: float, replicas: int = 1) -> list[tf.Tensor]:
        """Adds noise to every number of every tensor.

        Args:
            tensors: Sums of clipped gradients.
            stddev: ``noise_multiplier * sensitivity``, not negative. Zero returns the tensors.
            replicas: How many replicas each add noise to tensors that are summed later. The noise
                on that sum has the standard deviation ``stddev``. Defaults to 1.

        Returns:
            Tensors of the same shapes and dtypes. Noise is drawn in float32 or wider.

        Raises:
            TypeError: If a number has the wrong type.
            ValueError: If ``stddev`` is negative or not finite, or ``replicas`` below 1.
        """
        stddev = _validate.non_negative("stddev", stddev)
        replicas = _validate.integer("replicas", replicas, minimum=1)
        if stddev == 0 or not tensors:
            return list(tensors)
        self._calls.assign_add(1)
        seed = tf.constant(self._key, tf.int64)
        for number in (self._calls.read_value(), _replicas.number_of_replica()):
            seed = tf.random.experimental.stateless_fold_in(seed, number)
        seeds = tf.random.stateless_uniform(
            [len(tensors), 2], seed, minval=None, maxval=None, dtype=tf.int64
        )
        share = stddev / math.sqrt(replicas)
        return [self._noisy(tensor, share, seeds[place]) for place, tensor in enumerate(tensors)]

    def _noisy(self, tensor: tf.Tensor, stddev: float, seed: tf.Tensor) -> tf.Tensor:
        dtype = tf.float64 if tensor.dtype == tf.float64 else tf.float32
        noise = tf.random.stateless_normal(tf.shape(tensor), seed, stddev=stddev, dtype=dtype)
        return tf.cast(tf.cast(tensor, dtype) + noise, tensor.dtype)
