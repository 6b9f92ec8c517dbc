"""Tests of the trainable scalar of residual branches."""

import keras
import numpy as np
import pytest

from tfdp.layers import SkipInit


def test_it_starts_from_nothing_or_from_what_is_said():
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    np.testing.assert_array_equal(SkipInit()(x), np.zeros_like(x))
    layer = SkipInit(initial_value=-1.5)
    np.testing.assert_allclose(layer(x), -1.5 * x)
    assert layer.count_params() == 1 and layer.multiplier.trainable


def test_it_is_saved_with_its_number(tmp_path):
    model = keras.Sequential([keras.Input((3,)), SkipInit(0.5)])
    model.layers[0].multiplier.assign(0.25)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].initial_value == 0.5
    np.testing.assert_allclose(loaded(np.ones((1, 3))), [[0.25] * 3])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "1", None])
def test_only_numbers_are_taken(value):
    with pytest.raises((TypeError, ValueError), match="`initial_value` must be .*Received"):
        SkipInit(value)
