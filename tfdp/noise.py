"""Gaussian noise: where the randomness comes from and how it is scaled."""

from __future__ import annotations

import tensorflow as tf

from tfdp import _entropy, _validate


class GaussianNoise:
    """Independent Gaussian noise on a list of tensors.

    The key and counter of the Philox generator come from the operating system. They are no part
    of any checkpoint: a run that resumes draws noise that was never used before.

    Args:
        seed: For tests only: a fixed seed makes the noise known, and a model trained with it is
            not private. Defaults to ``None``, a fresh seed.
    """

    def __init__(self, seed: int | None = None):
        self.seed = None if seed is None else _validate.integer("seed", seed)
        if seed is None:
            self._generator = _entropy.fresh_generator()
        else:
            self._generator = tf.random.Generator.from_seed(self.seed, alg="philox")

    def add(self, tensors: list[tf.Tensor], stddev: float) -> list[tf.Tensor]:
        """Adds noise of standard deviation ``stddev`` to every number of every tensor.

        Args:
            tensors: Sums of clipped gradients.
            stddev: ``noise_multiplier * sensitivity``, not negative. Zero returns the tensors.

        Returns:
            Tensors of the same shapes and dtypes. Noise is drawn in float32 or wider.
        """
        stddev = _validate.non_negative("stddev", stddev)
        if stddev == 0:
            return list(tensors)
        return [self._noisy(tensor, stddev) for tensor in tensors]

    def _noisy(self, tensor: tf.Tensor, stddev: float) -> tf.Tensor:
        dtype = tf.float64 if tensor.dtype == tf.float64 else tf.float32
        noise = self._generator.normal(tf.shape(tensor), stddev=stddev, dtype=dtype)
        return tf.cast(tf.cast(tensor, dtype) + noise, tensor.dtype)
