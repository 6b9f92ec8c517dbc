"""Tests of the tempered sigmoid."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from tfdp.layers import TemperedSigmoid, tempered_sigmoid

POSITIVE = st.floats(0.1, 5.0)
TRIPLETS = st.tuples(POSITIVE, POSITIVE, st.floats(-4.0, 4.0))
INPUTS = np.linspace(-6.0, 6.0, 25, dtype="float32")


@given(TRIPLETS)
def test_values_follow_the_formula(triplet):
    scale, temperature, offset = triplet
    expected = scale / (1 + np.exp(-temperature * INPUTS.astype("float64"))) - offset
    actual = ops.convert_to_numpy(TemperedSigmoid(*triplet)(INPUTS))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=2e-6)


@given(TRIPLETS)
def test_values_stay_between_the_bounds_and_rise(triplet):
    scale, _, offset = triplet
    values = ops.convert_to_numpy(tempered_sigmoid(np.linspace(-1e3, 1e3, 101), *triplet))
    rounding = 1e-5
    assert values.min() >= -offset - rounding
    assert values.max() <= scale - offset + rounding
    assert (np.diff(values) >= -rounding).all()


@given(TRIPLETS)
def test_slope_at_zero_is_a_quarter_of_scale_times_temperature(triplet):
    scale, temperature, _ = triplet
    step = 1e-3
    below, above = tempered_sigmoid(np.array([-step, step]), *triplet)
    slope = (float(above) - float(below)) / (2 * step)
    assert slope == pytest.approx(scale * temperature / 4, rel=1e-2)


def test_defaults_are_tanh():
    actual = ops.convert_to_numpy(TemperedSigmoid()(INPUTS))
    np.testing.assert_allclose(actual, np.tanh(INPUTS), atol=1e-6)


def test_temperature_multiplies_the_input():
    cool = ops.convert_to_numpy(tempered_sigmoid(2 * INPUTS, temperature=1.5))
    warm = ops.convert_to_numpy(tempered_sigmoid(INPUTS, temperature=3.0))
    np.testing.assert_allclose(cool, warm, rtol=1e-6)


@pytest.mark.parametrize("name", ["scale", "temperature"])
@pytest.mark.parametrize("value", [0.0, -1.5, float("nan"), float("inf")])
def test_parameters_must_be_positive(name, value):
    with pytest.raises(ValueError, match=rf"`{name}` must be .*Received: {name}={value}$"):
        TemperedSigmoid(**{name: value})
    with pytest.raises(ValueError, match=rf"Received: {name}={value}$"):
        tempered_sigmoid(INPUTS, **{name: value})


def test_offset_may_be_negative_but_must_be_a_number():
    assert TemperedSigmoid(offset=-1.0).offset == -1.0
    with pytest.raises(ValueError, match="Received: offset=nan$"):
        TemperedSigmoid(offset=float("nan"))
    with pytest.raises(TypeError, match="Received: offset='1'$"):
        TemperedSigmoid(offset="1")


def test_the_layer_has_no_weights_and_keeps_the_shape():
    layer = TemperedSigmoid()
    assert layer.weights == []
    assert layer.compute_output_shape((None, 3, 4)) == (None, 3, 4)
    assert layer(keras.KerasTensor((None, 3, 4))).shape == (None, 3, 4)


def test_the_layer_passes_masks_on():
    model = keras.Sequential([keras.layers.Masking(), TemperedSigmoid()])
    assert model(np.zeros((1, 2, 3)))._keras_mask is not None


def test_the_configuration_makes_an_equal_layer():
    layer = TemperedSigmoid(1.58, 3.0, 0.71, name="phi")
    again = TemperedSigmoid.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()


@pytest.mark.parametrize(
    "stack",
    [
        lambda: [keras.layers.Dense(4), TemperedSigmoid(1.58, 3.0, 0.71)],
        lambda: [keras.layers.Dense(4, activation=TemperedSigmoid(1.58, 3.0, 0.71))],
        lambda: [keras.layers.Dense(4, activation=tempered_sigmoid)],
        lambda: [keras.layers.Dense(4), keras.layers.Activation(tempered_sigmoid)],
    ],
    ids=["layer", "layer as activation", "function as activation", "function in a layer"],
)
def test_a_model_with_it_is_saved_and_loaded_without_custom_objects(stack, tmp_path):
    model = keras.Sequential([keras.Input((3,)), *stack()])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    np.testing.assert_allclose(loaded(x), model(x), rtol=1e-6)


def test_it_is_the_activation_of_a_convolution():
    plain = keras.layers.Conv2D(2, 3, kernel_initializer="ones")
    tempered = keras.layers.Conv2D(2, 3, kernel_initializer="ones", activation=TemperedSigmoid())
    x = np.random.default_rng(0).normal(size=(2, 5, 5, 1)).astype("float32")
    np.testing.assert_allclose(tempered(x), np.tanh(plain(x)), atol=1e-6)


def test_mixed_precision(mixed_precision):
    layer = TemperedSigmoid(1.58, 3.0, 0.71)
    values = layer(INPUTS)
    assert keras.backend.standardize_dtype(values.dtype) == "float16"
    expected = tempered_sigmoid(INPUTS.astype("float64"), 1.58, 3.0, 0.71)
    np.testing.assert_allclose(
        ops.convert_to_numpy(values).astype("float64"), expected, rtol=1e-2, atol=2e-3
    )
