"""Tests of the MNIST network."""

import keras
import numpy as np
import pytest

import tfdp
from tfdp.models import mnist_cnn


def test_it_is_the_published_network_layer_for_layer():
    model = mnist_cnn()
    assert model.count_params() == 26_010
    assert [tuple(layer.output.shape[1:]) for layer in model.layers] == [
        (14, 14, 16),
        (14, 14, 16),
        (13, 13, 16),
        (5, 5, 32),
        (5, 5, 32),
        (4, 4, 32),
        (512,),
        (32,),
        (32,),
        (10,),
    ]
    assert [layer.activation.__name__ for layer in model.layers if _is_activation(layer)] == [
        "tanh"
    ] * 3


def test_logits_are_not_squashed():
    model = mnist_cnn()
    assert model.layers[-1].activation is keras.activations.linear
    x = np.random.default_rng(0).random((2, 28, 28, 1), "float32")
    assert model(x).shape == (2, 10)


@pytest.mark.parametrize(
    "activation", ["relu", keras.activations.gelu, tfdp.layers.TemperedSigmoid(1.58, 3, 0.71)]
)
def test_any_activation_is_saved_and_loaded(activation, tmp_path):
    model = mnist_cnn(activation)
    assert model.count_params() == 26_010
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(0).random((2, 28, 28, 1), "float32")
    np.testing.assert_allclose(loaded(x), model(x), rtol=1e-5, atol=1e-6)


def test_each_image_is_standardized_by_itself(tmp_path):
    plain, standardized = mnist_cnn(), mnist_cnn(standardize=True)
    assert standardized.count_params() == plain.count_params()
    standardized.set_weights(plain.get_weights())
    x = np.random.default_rng(0).random((3, 28, 28, 1), "float32") * [[[[0.1]]], [[[1.0]]], [[[5]]]]
    pixels = (1, 2, 3)
    by_hand = (x - x.mean(pixels, keepdims=True)) / np.sqrt(x.var(pixels, keepdims=True) + 1e-5)
    np.testing.assert_allclose(standardized(x), plain(by_hand), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(standardized(x[:1]), standardized(x)[:1], rtol=1e-4, atol=1e-5)
    assert np.isfinite(standardized(np.zeros((1, 28, 28, 1)))).all()
    standardized.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(x), standardized(x), rtol=1e-4, atol=1e-5)


def test_other_images_and_classes():
    model = mnist_cnn(input_shape=(32, 32, 3), num_classes=5)
    assert model(np.zeros((1, 32, 32, 3))).shape == (1, 5)


def test_logits_are_float32_in_mixed_precision(mixed_precision):
    model = mnist_cnn(tfdp.layers.TemperedSigmoid())
    assert model.compute_dtype == "float16" or model.layers[0].compute_dtype == "float16"
    assert model(np.zeros((1, 28, 28, 1))).dtype == "float32"


def _is_activation(layer):
    return isinstance(layer, keras.layers.Activation)
