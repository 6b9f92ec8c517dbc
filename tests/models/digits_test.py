"""Tests of the perceptron for digits."""

import numpy as np

from tfdp.models import digits_mlp


def test_shapes_and_size():
    model = digits_mlp()
    assert model.count_params() == 64 * 64 + 64 + 64 * 10 + 10
    assert model(np.zeros((3, 8, 8, 1))).shape == (3, 10)


def test_other_images_and_classes():
    assert digits_mlp(input_shape=(4, 4, 3), num_classes=2)(np.zeros((1, 4, 4, 3))).shape == (1, 2)
