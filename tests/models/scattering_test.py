"""Tests of the networks on scattering features."""

import keras
import numpy as np
import pytest

import tfdp
from tfdp.models import scattering_cnn


def _names(model):
    return [type(layer).__name__ for layer in model.layers]


def test_both_are_the_published_networks_layer_for_layer():
    narrow = scattering_cnn()
    wide = scattering_cnn(variant="wide", input_shape=(8, 8, 243))
    assert (narrow.count_params(), wide.count_params()) == (33_066, 187_210)
    conv = ["Conv2D", "Activation"]
    assert _names(narrow) == [*conv, *conv, "Flatten", "Dense", "Activation", "Dense"]
    assert _names(wide) == [*conv, "MaxPooling2D", *conv, "Flatten", "Dense"]


@pytest.mark.parametrize("variant", ["narrow", "wide"])
def test_they_train_privately_and_are_saved(variant, tmp_path):
    model = scattering_cnn(
        tfdp.layers.TemperedSigmoid(), variant, input_shape=(4, 4, 3), num_classes=2
    )
    private = tfdp.make_private(model)
    private.compile(
        tfdp.optimizers.VectorizedDPKerasSGDOptimizer(1.0, 1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    x = np.random.default_rng(0).normal(size=(20, 4, 4, 3)).astype("float32")
    private.fit(x, np.zeros(20, "int32"), batch_size=5, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(x), model(x), rtol=1e-5)


def test_logits_are_float32_under_mixed_precision(mixed_precision):
    assert scattering_cnn()(np.zeros((1, 7, 7, 81))).dtype == "float32"


def test_unknown_variants_are_named():
    with pytest.raises(ValueError, match="variant='broad'"):
        scattering_cnn(variant="broad")
