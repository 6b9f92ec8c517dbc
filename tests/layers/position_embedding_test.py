"""Tests of learned positions."""

import keras
import numpy as np
import pytest

from tfdp.layers import PositionEmbedding


def test_every_position_has_an_embedding_of_its_own():
    layer = PositionEmbedding("random_normal")
    x = np.random.default_rng(0).normal(size=(3, 5, 4)).astype("float32")
    np.testing.assert_allclose(layer(x), x + np.asarray(layer.embeddings)[None], rtol=1e-6)
    assert layer.embeddings.shape == (5, 4)


def test_it_is_saved_with_its_embeddings(tmp_path):
    initializer = keras.initializers.RandomNormal(stddev=3.0)
    model = keras.Sequential([keras.Input((5, 4)), PositionEmbedding(initializer)])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = np.zeros((1, 5, 4), "float32")
    np.testing.assert_array_equal(loaded(x), model(x))
    assert loaded.layers[0].initializer.stddev == 3.0


@pytest.mark.parametrize("shape", [(None, 4), (5, 4, 3), (4,)])
def test_the_length_must_be_known(shape):
    with pytest.raises(ValueError, match=r"known length.* Received: input_shape="):
        keras.Sequential([keras.Input(shape), PositionEmbedding()])


@pytest.mark.parametrize("initializer", [None, "no initializer", 1.0])
def test_the_initializer_must_be_one_of_keras(initializer):
    with pytest.raises(ValueError, match="initializer"):
        PositionEmbedding(initializer)
