"""Tests of the network on features of patches."""

import keras
import numpy as np

import tfdp
from tfdp.models import patch_cnn


def test_it_is_the_network_of_its_table():
    model = patch_cnn()
    kinds = [type(layer).__name__ for layer in model.layers]
    assert kinds == ["Conv2D", "Activation", "Flatten", "Dense"]
    assert [layer.output.shape for layer in model.layers[::2]] == [(None, 3, 3, 128), (None, 1152)]
    assert model.count_params() == 114_058


def test_the_hidden_layer_is_the_same_in_every_part():
    model = patch_cnn(filters=2, input_shape=(3, 3, 5))
    x = np.random.default_rng(0).normal(size=(1, 3, 3, 5)).astype("float32")
    hidden = keras.Model(model.inputs[0], model.layers[1].output)
    turned = np.roll(x, (1, 2), axis=(1, 2))
    np.testing.assert_allclose(hidden(turned), np.roll(hidden(x), (1, 2), axis=(1, 2)), rtol=1e-5)


def test_it_begins_without_a_preference():
    x = np.random.default_rng(0).normal(size=(4, 3, 3, 800)).astype("float32")
    np.testing.assert_array_equal(patch_cnn()(x), np.zeros((4, 10)))


def test_it_learns_privately_and_is_saved(tmp_path):
    model = patch_cnn(
        tfdp.layers.TemperedSigmoid(), filters=8, input_shape=(2, 2, 4), num_classes=2
    )
    before = model.get_weights()
    private = tfdp.make_private(model)
    private.compile(
        tfdp.optimizers.VectorizedDPKerasSGDOptimizer(1.0, 0.1, learning_rate=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    x = np.random.default_rng(0).normal(size=(256, 2, 2, 4)).astype("float32")
    y = (x.mean((1, 2, 3)) > 0).astype("int32")
    private.fit(x, y, batch_size=64, epochs=10, verbose=0)
    assert private.evaluate(x, y, verbose=0)[1] > 0.8
    # The gradient of a layer behind zeros is zero at first; it is not for long.
    assert all(np.any(a != b) for a, b in zip(before, model.get_weights(), strict=True))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(x), model(x), rtol=1e-5)


def test_logits_are_float32_under_mixed_precision(mixed_precision):
    assert patch_cnn()(np.zeros((1, 3, 3, 800))).dtype == "float32"
