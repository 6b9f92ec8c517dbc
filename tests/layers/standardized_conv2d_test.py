"""Tests of the convolution with standardized weights."""

import keras
import numpy as np
import pytest

from tfdp.layers import WeightStandardizedConv2D


def standardized(kernel, gain=1.0, epsilon=1e-6):
    """The formula, in double precision."""
    kernel = np.asarray(kernel, "float64")
    fan_in = np.prod(kernel.shape[:-1])
    mean, variance = kernel.mean((0, 1, 2)), kernel.var((0, 1, 2))
    return gain * (kernel - mean) / np.sqrt(variance * fan_in + epsilon)


@pytest.mark.parametrize("use_gain", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
def test_it_convolves_with_standardized_weights(use_gain, groups):
    rng = np.random.default_rng(0)
    arguments = {"strides": 2, "padding": "same", "groups": groups, "activation": "tanh"}
    layer = WeightStandardizedConv2D(6, (3, 2), use_gain=use_gain, epsilon=1e-2, **arguments)
    plain = keras.layers.Conv2D(6, (3, 2), **arguments)
    x = rng.normal(size=(2, 7, 6, 4)).astype("float32")
    layer(x), plain(x)
    gain = 1.0
    if use_gain:
        assert np.all(np.asarray(layer.gain) == 1)
        gain = rng.normal(size=6)
        layer.gain.assign(gain)
    layer.bias.assign(rng.normal(size=6))
    plain.set_weights([standardized(layer.kernel, gain, 1e-2), layer.bias.numpy()])
    np.testing.assert_allclose(layer(x), plain(x), rtol=1e-4, atol=1e-6)
    assert len(layer.trainable_variables) == 2 + use_gain


def test_the_scale_and_mean_of_the_weights_do_not_matter():
    x = np.random.default_rng(0).normal(size=(2, 5, 5, 3)).astype("float32")
    layer = WeightStandardizedConv2D(4, 3)
    before = layer(x)
    layer._kernel.assign(5 * layer.kernel + 2)
    np.testing.assert_allclose(layer(x), before, rtol=1e-3, atol=1e-5)


def test_outputs_keep_the_variance_of_inputs():
    x = np.random.default_rng(0).normal(size=(8, 16, 16, 32)).astype("float32")
    assert np.var(WeightStandardizedConv2D(64, 3)(x)) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("use_gain", [True, False])
def test_it_is_saved_with_all_its_weights(use_gain, tmp_path):
    rng = np.random.default_rng(0)
    layer = WeightStandardizedConv2D(
        4, 3, use_gain=use_gain, epsilon=0.5, strides=2, padding="same", use_bias=False
    )
    model = keras.Sequential([keras.Input((6, 6, 2)), layer])
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].get_config() == layer.get_config()
    x = rng.normal(size=(2, 6, 6, 2)).astype("float32")
    np.testing.assert_array_equal(loaded(x), model(x))
    model.save_weights(tmp_path / "model.weights.h5")
    loaded.set_weights([np.zeros(w.shape) for w in model.get_weights()])
    loaded.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(loaded(x), model(x))


def test_low_rank_factors_are_added_before_standardization(tmp_path):
    rng = np.random.default_rng(0)
    layer = WeightStandardizedConv2D(4, 3)
    model = keras.Sequential([keras.Input((6, 6, 2)), layer])
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(rng.normal(size=layer.lora_kernel_b.shape))
    x = rng.normal(size=(2, 6, 6, 2)).astype("float32")
    plain = keras.layers.Conv2D(4, 3)
    plain(x)
    plain.set_weights([standardized(layer.kernel), layer.bias.numpy()])
    np.testing.assert_allclose(model(x), plain(x), rtol=1e-4, atol=1e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(x), model(x), rtol=1e-5, atol=1e-6)


def test_moments_are_those_of_float32_in_mixed_precision(mixed_precision):
    layer = WeightStandardizedConv2D(32, 3, epsilon=1e-12)
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 40)).astype("float32")
    assert layer(x).dtype == "float16"
    layer._kernel.assign(1e-3 * layer.kernel)  # Squares below the smallest float16.
    assert np.var(np.asarray(layer(x), "float32")) == pytest.approx(1, rel=0.1)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="`filters` must be .*Received: filters=0$"):
        WeightStandardizedConv2D(0, 3)
    with pytest.raises(ValueError, match="`epsilon` must be .*Received: epsilon=0$"):
        WeightStandardizedConv2D(2, 3, epsilon=0)
    with pytest.raises(TypeError, match="`use_gain` must be .*Received: use_gain=1$"):
        WeightStandardizedConv2D(2, 3, use_gain=1)
