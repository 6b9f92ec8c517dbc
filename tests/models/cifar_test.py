"""Tests of the CIFAR-10 networks."""

import keras
import numpy as np
import pytest

import tfdp
from tfdp.models import cifar_cnn


def _names(model):
    return [type(layer).__name__ for layer in model.layers]


BLOCK = ["Conv2D", "Activation", "Conv2D", "Activation"]


def test_all_conv_is_the_published_network_layer_for_layer():
    model = cifar_cnn()
    assert model.count_params() == 605_226
    assert _names(model) == [
        *(BLOCK + ["AveragePooling2D"]) * 3,
        *["Conv2D", "Activation", "Conv2D", "GlobalAveragePooling2D"],
    ]
    assert [c.filters for c in model.layers if isinstance(c, keras.layers.Conv2D)] == [
        *(32, 32, 64, 64, 128, 128),
        *(256, 10),
    ]


def test_dense_is_the_published_network_layer_for_layer():
    model = cifar_cnn(variant="dense")
    assert model.count_params() == 550_570
    assert _names(model) == [
        *(BLOCK + ["MaxPooling2D"]) * 3,
        *["Flatten", "Dense", "Activation", "Dense"],
    ]
    assert model.get_layer(index=-4).output.shape == (None, 2048)


def test_convolutions_keep_height_and_width():
    sizes = [
        tuple(layer.output.shape[1:3])
        for layer in cifar_cnn().layers
        if isinstance(layer, keras.layers.Conv2D)
    ]
    assert sizes == [(32, 32)] * 2 + [(16, 16)] * 2 + [(8, 8)] * 2 + [(4, 4)] * 2


@pytest.mark.parametrize("variant", ["all_conv", "dense"])
def test_normalization_uses_public_constants_and_is_saved(variant, tmp_path):
    keras.utils.set_random_seed(0)
    plain = cifar_cnn(variant=variant)
    normalized = cifar_cnn(tfdp.layers.TemperedSigmoid(), variant, normalize=True)
    assert normalized.count_params() == plain.count_params()
    normalized.set_weights(plain.get_weights())
    x = np.random.default_rng(0).random((2, 32, 32, 3), "float32")
    by_hand = (x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(normalized(x), plain(by_hand), rtol=1e-4, atol=1e-5)
    normalized.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(x), normalized(x), rtol=1e-4, atol=1e-5)


def test_other_images_and_classes():
    model = cifar_cnn(input_shape=(24, 24, 1), num_classes=7)
    assert model(np.zeros((1, 24, 24, 1))).shape == (1, 7)


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="`variant` must be .*Received: variant='wide'$"):
        cifar_cnn(variant="wide")


def test_normalization_needs_three_channels():
    with pytest.raises(ValueError, match=r"Received: input_shape=\(32, 32, 1\)$"):
        cifar_cnn(input_shape=(32, 32, 1), normalize=True)
