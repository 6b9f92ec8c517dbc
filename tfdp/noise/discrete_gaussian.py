"""Discrete Gaussian noise on a grid, from the random bits of the operating system."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import tensorflow as tf

from tfdp import _validate
from tfdp.noise.sampler import DiscreteGaussianSampler

_GRID_BITS = 23  # The noise is 2**23 to 2**24 steps of the grid wide.
_DIGIT = 2**7
#: The variance of ``x + _DIGIT * y + _DIGIT**2 * z`` over that of each of the three.
_VARIANCES = 1 + _DIGIT**2 + _DIGIT**4
#: Pays for the smoothing in the proof on the guarantees page, and for rounding of what is below.
_MARGIN = 1 + 2.0**-40
_LARGEST_MULTIPLE = 2.0**50  # With noise on top, float64 holds all multiples of the grid exactly.


class DiscreteGaussianNoise:
    """Independent discrete Gaussian noise on a list of tensors, by the secure source.

    Each number is rounded to a multiple of ``grid``, a power of two, and gets an integer multiple
    of it as noise. Rounding lets neighbouring tensors differ by up to half a step more on either
    side, so their sensitivity grows to ``sensitivity + sqrt(d) * grid`` for ``d`` numbers, and the
    noise grows with it.

    All random bits come from the operating system's cryptographic generator when they are needed.
    There is no seed, no key and no state: nothing that a checkpoint could hold or a resumed run
    repeat.

    Args:
        sensitivity: How far neighbouring data move the tensors, all together, in the L2 norm;
            positive.

    Raises:
        TypeError: If ``sensitivity`` is not a number.
        ValueError: If it is not positive and finite.

    Formal guarantee: what `add` releases is as private as the tensors with continuous Gaussian
    noise of standard deviation ``stddev``, and needs no other accounting. That is proven for all
    that is released, to the last bit, under any sampling and accountant: over ``n`` released
    numbers epsilon grows by less than ``n * 1e-130`` and delta by less than
    ``(1 + e^epsilon) * n * 1e-41`` (see the page on guarantees). It holds if ``sensitivity`` bounds
    the tensors as they are given; how they were rounded when they were summed is outside of it.

    Example:
        >>> import tensorflow as tf, tfdp
        >>> noise = tfdp.noise.DiscreteGaussianNoise(sensitivity=1.0)
        >>> (noisy,) = noise.add([tf.zeros([10_000])], stddev=2.0)
        >>> bool(1.8 < tf.math.reduce_std(noisy) < 2.2)
        True
        >>> noise.grid(2.0)
        2.384185791015625e-07

    References:
        - Canonne, Kamath and Steinke 2020, "The Discrete Gaussian for Differential Privacy",
          arXiv:2004.00010.
        - Peikert 2010, "An Efficient and Parallel Gaussian Sampler for Lattices": sums of discrete
          Gaussians of different steps.
        - Mironov 2012, "On Significance of the Least Significant Bits for Differential Privacy".
    """

    def __init__(self, sensitivity: float):
        self.sensitivity = _validate.positive("sensitivity", sensitivity)

    def grid(self, stddev: float) -> float:
        """The step of the grid: a power of two, ``2**-24`` to ``2**-23`` of ``stddev``.

        Args:
            stddev: As for `add`, but positive.

        Raises:
            TypeError: If it is not a number.
            ValueError: If it is not in [1e-200, 1e200], where float64 holds the grid.
        """
        stddev = _validate.positive("stddev", stddev)
        if not 1e-200 <= stddev <= 1e200:
            raise _validate.value_error("stddev", stddev, "0 or in [1e-200, 1e200]")
        return math.ldexp(1.0, math.frexp(stddev)[1] - 1 - _GRID_BITS)

    def add(self, tensors: list[tf.Tensor], stddev: float, replicas: int = 1) -> list[tf.Tensor]:
        """Rounds every number of every tensor to the grid and adds noise.

        It runs on the host's processor, also in a compiled function and where the tensors are on a
        GPU. XLA, and so a TPU, has no such operation.

        Args:
            tensors: Sums of clipped gradients, of known shapes: all that is released at once.
            stddev: ``noise_multiplier * sensitivity``, not negative. Zero returns the tensors.
            replicas: Must be 1: what several replicas noise would be rounded again when it is
                summed. Defaults to 1.

        Returns:
            Tensors of the same shapes and dtypes. They are worked out in float64 without any
            rounding; that to their own dtype comes last, and so is post-processing.

        Raises:
            TypeError: If a number has the wrong type.
            ValueError: If ``stddev`` is out of range or rounding would add more than an eighth to
                the sensitivity, a shape is not known, or ``replicas`` is not 1.
        """
        stddev = _validate.non_negative("stddev", stddev)
        if _validate.integer("replicas", replicas, minimum=1) > 1:
            raise ValueError(
                "Secure noise is added on one replica: float32 sums over several would round it. "
                f"Received: replicas={replicas}"
            )
        if stddev == 0 or not tensors:
            return list(tensors)
        sizes = [tensor.shape.num_elements() for tensor in tensors]
        if None in sizes:
            raise ValueError(
                "How many numbers are rounded must be known beforehand. "
                f"Received: tensors of shapes {[tensor.shape for tensor in tensors]}"
            )
        numbers = tf.concat([tf.reshape(tf.cast(t, tf.float64), [-1]) for t in tensors], 0)
        released = self._mechanism(stddev, sum(sizes)).released
        noisy = tf.numpy_function(released, [numbers], tf.float64)
        return [
            tf.cast(tf.reshape(part, tensor.shape), tensor.dtype)
            for part, tensor in zip(tf.split(noisy, sizes), tensors, strict=True)
        ]

    def _mechanism(self, stddev: float, numbers: int) -> _OnGrid:
        grid = self.grid(stddev)
        rounded = math.sqrt(numbers) * grid
        if rounded > self.sensitivity / 8:
            raise ValueError(
                f"Rounding {numbers} numbers to a grid as coarse as this noise has would add more "
                f"than an eighth to the sensitivity {self.sensitivity}. Received: stddev={stddev}"
            )
        steps = stddev / grid * (1 + rounded / self.sensitivity) * _MARGIN
        return _OnGrid(grid, _sampler(steps / math.sqrt(_VARIANCES)))


@dataclasses.dataclass(frozen=True)
class _OnGrid:
    """Rounding to multiples of a step, with noise that is one."""

    grid: float
    sampler: DiscreteGaussianSampler

    def released(self, numbers: np.ndarray) -> np.ndarray:
        # Beyond the largest multiple numbers are cut, which moves no two of them apart.
        most = _LARGEST_MULTIPLE * self.grid
        multiples = np.rint(np.clip(numbers, -most, most) / self.grid)
        low, middle, high = (self.sampler.draw(numbers.size) for _ in range(3))
        noise = low + _DIGIT * middle + _DIGIT**2 * high
        return (multiples + noise) * self.grid


@functools.lru_cache(maxsize=8)
def _sampler(stddev: float) -> DiscreteGaussianSampler:
    """Its table is made once, not in each eager call."""
    return DiscreteGaussianSampler(stddev)
