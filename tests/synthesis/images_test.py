"""Bytes to [-1, 1] and back."""

import numpy as np

from tfdp.synthesis import to_bytes, to_unit_range


def test_every_byte_comes_back():
    images = np.arange(256, dtype="uint8").reshape(1, 16, 16, 1)
    scaled = to_unit_range(images)
    assert scaled.dtype == np.float32
    assert (scaled.min(), scaled.max()) == (-1, 1)
    np.testing.assert_array_equal(to_bytes(scaled), images)


def test_what_is_outside_is_clipped():
    np.testing.assert_array_equal(to_bytes(np.array([-1.5, 0.0, 2.0])), [0, 128, 255])
