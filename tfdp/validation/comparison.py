"""What of two runs of a model must be equal, and when it is."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

# Runs on the same shapes go through the same kernels, which give a row the same bits whatever the
# other rows hold. The few roundings are for devices that cut a sum in another way in each run.
_ROUNDINGS = 4.0
# Kernels for another batch size may sum in another order, and in TensorFloat-32, of 10 bits.
_OTHER_KERNELS = 0.01


class Owners:
    """Which example each number of a tensor belongs to, as far as runs leave it open.

    A tensor may have the examples along any axis, with one or several entries for each, block by
    block or in turn; or belong as a whole to one of them, as where a layer is called example by
    example. What no such reading explains depends on several examples.

    Args:
        shape: The tensor's shape.
        examples: How many examples there are.
        is_models: Whether it is an output of the model: that has the examples along its first
            axis, or does not depend on them.
    """

    def __init__(self, shape: tuple[int, ...], examples: int, is_models: bool):
        self._layouts = _layouts(shape, examples)
        self._single = set(range(examples))
        if is_models:
            self._layouts = _layouts(shape, examples)[:1] if shape[:1] == (examples,) else []
            self._single = set()
        self.mixed = False

    def compare(self, value: np.ndarray, other: np.ndarray, kept: np.ndarray) -> None:
        """Drops the readings by which ``other`` should equal ``value`` somewhere and does not."""
        if value.shape == other.shape:
            changed = differs(value, other)
            if not changed.any():
                return
        else:
            changed = np.ones(value.shape, bool)
        self._single -= set(np.flatnonzero(kept))
        self._layouts = [
            (axis, owner)
            for axis, owner in self._layouts
            if not np.compress(kept[owner], changed, axis).any()
        ]
        self.mixed = not (self._layouts or self._single)


def _layouts(shape: tuple[int, ...], examples: int) -> list[tuple[int, np.ndarray]]:
    """Axes along which examples may lie, with the example of each entry."""
    result = []
    for axis, size in enumerate(shape):
        if size and size % examples == 0:
            result.append((axis, np.arange(size) // (size // examples)))
            if size > examples:
                result.append((axis, np.arange(size) % examples))
    return result


def is_part(part: np.ndarray, whole: np.ndarray, chosen: np.ndarray) -> bool:
    """Whether ``part`` is ``whole``, or the chosen examples of it, as another kernel rounds."""
    readings = [
        np.compress(chosen[owner], whole, axis)
        for axis, owner in _layouts(whole.shape, len(chosen))
    ]
    return any(
        reading.shape == part.shape and not differs(reading, part, _OTHER_KERNELS).any()
        for reading in (whole, *readings)
    )


def differs(a: np.ndarray, b: np.ndarray, tolerance: float | None = None) -> np.ndarray:
    """Where two arrays of the same shape differ. NaN is equal to NaN.

    Args:
        a: An array.
        b: Another.
        tolerance: Of floating-point numbers, in units of the largest finite one. Defaults to a few
            roundings.
    """
    unequal = a != b
    if not is_inexact(a) or not unequal.any():
        return unequal
    if tolerance is None:
        tolerance = _ROUNDINGS * float(np.spacing(np.ones((), a.real.dtype)))
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    a, b = a.astype(wide), b.astype(wide)
    scale = np.max(np.abs(a), where=np.isfinite(a), initial=0.0)
    with np.errstate(invalid="ignore"):  # Infinity less infinity.
        close = np.abs(a - b) <= tolerance * scale
    return unequal & ~close & ~(np.isnan(a) & np.isnan(b))


def is_inexact(array: np.ndarray) -> bool:
    """Whether an array holds floating-point numbers, of a dtype of TensorFlow."""
    dtype = tf.as_dtype(array.dtype)
    return dtype.is_floating or dtype.is_complex
