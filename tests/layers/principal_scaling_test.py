"""Tests of centring, and of scaling a few directions."""

import keras
import numpy as np
import pytest

from tfdp.layers import PrincipalScaling

RNG = np.random.default_rng(0)
MEAN = RNG.normal(size=(3, 2)).astype("float32")
DIRECTIONS = np.linalg.qr(RNG.normal(size=(6, 2)))[0].astype("float32")
FACTORS = np.array([0.25, 0.5], "float32")
X = RNG.normal(size=(7, 3, 2)).astype("float32")


def scaling(dtype=None):
    layer = PrincipalScaling(2, dtype=dtype)
    layer.build((None, 3, 2))
    layer.set_statistics(MEAN, DIRECTIONS, FACTORS)
    return layer


def test_it_multiplies_along_the_directions_and_nowhere_else():
    found = scaling()(X).numpy().reshape(7, 6)
    centred = (X - MEAN).reshape(7, 6)
    along = DIRECTIONS @ DIRECTIONS.T
    np.testing.assert_allclose(
        found @ DIRECTIONS, (centred @ DIRECTIONS) * FACTORS, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(found - found @ along, centred - centred @ along, atol=1e-5)


def test_a_new_layer_changes_nothing():
    np.testing.assert_array_equal(PrincipalScaling(2)(X), X)
    layer = PrincipalScaling()
    layer.build((None, 3, 2))
    layer.set_statistics(MEAN)
    np.testing.assert_array_equal(layer(X), X - MEAN)


def test_its_numbers_are_saved_and_not_trained(tmp_path):
    model = keras.Sequential([keras.Input((3, 2)), scaling()])
    assert not model.trainable_variables
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(X), model(X))
    assert loaded(X[:0]).shape == (0, 3, 2)


def test_half_precision_comes_near():
    found = scaling("mixed_float16")(X)
    assert found.dtype == "float16"
    np.testing.assert_allclose(found, scaling()(X), atol=1e-2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((MEAN[:2], DIRECTIONS, FACTORS), r"`mean` must have 6 numbers.*\(2, 2\)"),
        ((MEAN, DIRECTIONS.T, FACTORS), r"`directions` must have the shape \(6, 2\).*\(2, 6\)"),
        ((MEAN, DIRECTIONS, FACTORS[:1]), r"`factors` must have the shape \(2,\).*\(1,\)"),
        ((MEAN,), r"`directions` must have the shape"),
    ],
)
def test_numbers_of_other_shapes_are_refused(arguments, message):
    layer = scaling()
    before = layer(X).numpy()
    with pytest.raises(ValueError, match=message):
        layer.set_statistics(*arguments)
    np.testing.assert_array_equal(layer(X), before)


def test_it_must_be_built_first():
    with pytest.raises(ValueError, match="Build the layer"):
        PrincipalScaling(2).set_statistics(MEAN, DIRECTIONS, FACTORS)


def test_negative_numbers_of_directions_are_refused():
    with pytest.raises(ValueError, match="num_directions=-1"):
        PrincipalScaling(-1)
