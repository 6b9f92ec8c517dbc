"""Tests of the vision transformers."""

import keras
import numpy as np
import pytest

from tfdp.models import vit_small

L = keras.layers
TINY = {
    "input_shape": (8, 12, 3),
    "num_classes": 3,
    "patch_size": 4,
    "dim": 12,
    "depth": 2,
    "heads": 3,
}


def parameters(patches, patch_features, dim, depth, num_classes, mlp_ratio=4):
    def dense(inputs, outputs):
        return (inputs + 1) * outputs

    hidden, norm = mlp_ratio * dim, 2 * dim
    perceptron = dense(dim, hidden) + dense(hidden, dim)
    block = norm + 4 * dense(dim, dim) + norm + perceptron
    ends = dense(patch_features, dim) + patches * dim + norm + dense(dim, num_classes)
    return ends + depth * block


def test_vit_s_16_has_its_number_of_parameters():
    """22,050,664 with a class token; there is none, and no position for it."""
    expected = parameters(14 * 14, 16 * 16 * 3, 384, 12, 1000)
    assert expected == 22_050_664 - 2 * 384
    assert vit_small().count_params() == expected


def test_a_smaller_one():
    model = vit_small(**TINY, mlp_ratio=2)
    assert model.count_params() == parameters(2 * 3, 4 * 4 * 3, 12, 2, 3, 2)
    assert model.output_shape == (None, 3)


def test_each_branch_begins_with_normalization():
    model = vit_small(**TINY)
    kinds = (L.LayerNormalization, L.MultiHeadAttention, L.Dense, L.Add)
    names = [type(layer).__name__ for layer in model.layers if isinstance(layer, kinds)]
    attention = ["LayerNormalization", "MultiHeadAttention", "Add"]
    perceptron = ["LayerNormalization", "Dense", "Dense", "Add"]
    assert names == [*((attention + perceptron) * 2), "LayerNormalization", "Dense"]


def test_patches_are_told_apart_by_their_positions():
    keras.utils.set_random_seed(0)
    model = vit_small(**TINY)
    x = np.random.default_rng(0).random((1, 8, 12, 3), "float32")
    swapped = np.concatenate([x[:, 4:], x[:, :4]], axis=1)
    assert np.abs(model(x) - model(swapped)).max() > 1e-6
    positions = next(layer for layer in model.layers if type(layer).__name__ == "PositionEmbedding")
    positions.embeddings.assign(np.zeros(positions.embeddings.shape))
    np.testing.assert_allclose(model(x), model(swapped), rtol=1e-4, atol=1e-6)


def test_initial_weights():
    keras.utils.set_random_seed(0)
    model = vit_small(input_shape=(32, 32, 3), dim=96, depth=1)
    kernels = [w for w in model.trainable_weights if w.name in ("kernel", "embeddings")]
    assert len(kernels) == 1 + 1 + 4 + 2 + 1
    for kernel in kernels:
        # Keras's truncation, at two standard deviations, leaves 88 % of the deviation.
        assert np.asarray(kernel).std() == pytest.approx(0.0176, rel=0.1)
    assert len({np.asarray(kernel).ravel()[0] for kernel in kernels}) == len(kernels)


def test_it_is_saved_and_loaded(tmp_path):
    model = vit_small(**TINY, normalize=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(0).random((2, 8, 12, 3), "float32")
    np.testing.assert_allclose(loaded(x), model(x), rtol=1e-5, atol=1e-6)


def test_logits_are_float32_in_mixed_precision(mixed_precision):
    assert vit_small(**TINY)(np.zeros((1, 8, 12, 3))).dtype == "float32"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"input_shape": (30, 32, 3)}, r"`input_shape` must be of multiples of `patch_size`, 16. "),
        ({"heads": 5}, "`dim` must be a multiple of `heads`, 5. Received: dim=384$"),
        ({"depth": 0}, "`depth` must be at least 1. Received: depth=0$"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        vit_small(**arguments)
