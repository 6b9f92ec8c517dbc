"""Tests of features of patches: against one patch at a time, and where filters come from."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdp.layers import PatchFeatures2D, patch_features2d

RNG = np.random.default_rng(0)


def one_patch_at_a_time(layer, image):
    """The features of one image, in float64."""
    size, kernel = layer.patch_size, np.asarray(layer.kernel, "float64")
    positions = [length - size + 1 for length in image.shape[:2]]
    compared = np.empty((*positions, layer.filters))
    for row, column in np.ndindex(*positions):
        patch = image[row : row + size, column : column + size].astype("float64")
        patch = (patch - patch.mean()) / np.sqrt(patch.var() + 10 / 255**2)
        compared[row, column] = np.tensordot(patch, kernel, 3)
    sides = np.maximum(np.concatenate([compared, -compared], -1) - layer.threshold, 0)
    edges = [[round(n * k / layer.cells) for k in range(layer.cells + 1)] for n in positions]
    found = np.empty((layer.cells, layer.cells, 2 * layer.filters))
    for row, column in np.ndindex(layer.cells, layer.cells):
        (top, bottom), (left, right) = edges[0][row : row + 2], edges[1][column : column + 2]
        found[row, column] = sides[top:bottom, left:right].mean((0, 1))
    return found


@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((9, 9, 1), {}),
        ((12, 10, 3), {"cells": 3}),
        ((8, 13, 2), {"patch_size": 3, "threshold": 0.0}),
        ((6, 6, 3), {"cells": 1}),
        ((9, 8, 3), {"mirrored": True, "seed": 3}),
    ],
)
def test_features_are_those_of_one_patch_at_a_time(shape, options):
    x = RNG.uniform(size=(3, *shape)).astype("float32")
    layer = PatchFeatures2D(5, **options)
    found = layer(x).numpy()
    assert found.shape == layer.compute_output_shape(x.shape)
    wanted = [one_patch_at_a_time(layer, image) for image in x]
    if layer.mirrored:
        mirrored = [one_patch_at_a_time(layer, image[:, ::-1]) for image in x]
        wanted = np.mean([wanted, mirrored], axis=0)
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-4)
    assert np.abs(wanted).max() > 0.1


def test_mirror_images_have_the_same_features_where_asked_for():
    x = RNG.uniform(size=(2, 9, 9, 1)).astype("float32")
    for mirrored in (False, True):
        layer = PatchFeatures2D(5, mirrored=mirrored)
        same = np.allclose(layer(x), layer(x[:, :, ::-1]), atol=1e-5)
        assert same == mirrored


def test_brightness_and_contrast_do_not_matter():
    x = RNG.uniform(0.2, 0.8, size=(4, 9, 9, 3)).astype("float32")
    layer = PatchFeatures2D(20)
    np.testing.assert_allclose(layer(0.8 * x + 0.1), layer(x), atol=0.01)
    np.testing.assert_array_equal(layer(0 * x + 0.5), 0 * layer(x))


def test_no_example_changes_the_features_of_another():
    x = RNG.uniform(size=(4, 9, 9, 1)).astype("float32")
    layer = PatchFeatures2D(5)
    others = np.concatenate([x[:1], 1 - x[1:]])
    np.testing.assert_allclose(layer(x)[0], layer(others)[0], atol=1e-6)


def test_filters_come_from_the_seed_alone():
    def kernel(**options):
        layer = PatchFeatures2D(7, **options)
        layer.build((None, 8, 8, 3))
        return np.asarray(layer.kernel)

    first = kernel()
    patch_features2d._kernel.cache_clear()
    keras.utils.set_random_seed(5)
    np.testing.assert_array_equal(kernel(), first)
    assert np.abs(kernel(seed=1) - first).max() > 0.1
    np.testing.assert_allclose(first.sum((0, 1, 2)), 0, atol=1e-5)


def test_whitened_comparisons_vary_alike():
    """Of patches of the random process: none is compared on a scale of its own."""
    rng = np.random.default_rng(1)
    patches = patch_features2d._patches(rng, patch_features2d._dead_leaves(rng, 1), 6)
    patches -= patches.mean(1, keepdims=True)
    patches /= np.sqrt(patches.var(1, keepdims=True) + 10 / 255**2)
    kernel = patch_features2d._kernel(1, 50, 6, 1e-3, 0).reshape(36, 50)
    np.testing.assert_allclose((patches @ kernel).std(0), 1, atol=0.25)
    plain = kernel / np.linalg.norm(kernel, axis=0)
    assert (patches @ plain).std(0).max() > 2 * (patches @ plain).std(0).min()


def test_dead_leaves_look_like_natural_images():
    """Pixels are the less alike the farther apart, and colours of a pixel are nearly grey."""
    images = patch_features2d._dead_leaves(np.random.default_rng(0), 3)
    assert images.shape == (100, 32, 32, 3) and images.min() >= 0 and images.max() <= 1

    def alike(a, b):
        return np.corrcoef(a.ravel(), b.ravel())[0, 1]

    by_distance = [alike(images[:, :, d:], images[:, :, :-d]) for d in (1, 2, 4, 8)]
    assert by_distance == sorted(by_distance, reverse=True)
    assert by_distance[0] > 0.8 and 0 < by_distance[-1] < 0.5
    assert 0.7 < alike(images[..., 0], images[..., 1]) < 0.999


def test_it_is_saved_with_its_filters_and_works_compiled_and_for_no_images(tmp_path):
    layer = PatchFeatures2D(
        5, 4, threshold=0.5, cells=3, whitening_epsilon=0.2, mirrored=True, seed=2
    )
    model = keras.Sequential([keras.Input((9, 9, 2)), layer, keras.layers.Flatten()])
    assert not model.trainable_weights and len(model.weights) == 1
    layer.kernel.assign(layer.kernel + 1)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = RNG.uniform(size=(4, 9, 9, 2)).astype("float32")
    np.testing.assert_array_equal(loaded(x), model(x))
    assert loaded.layers[0].get_config() == layer.get_config()
    compiled = tf.function(model)
    np.testing.assert_allclose(compiled(x), model(x), atol=1e-5)
    assert compiled(x[:0]).shape == (0, 90) == model(x[:0]).shape


def test_features_have_the_dtype_of_the_policy():
    x = RNG.uniform(size=(2, 8, 8, 1)).astype("float32")
    half = PatchFeatures2D(5, dtype="mixed_float16")(x)
    assert half.dtype == "float16"
    np.testing.assert_allclose(half, PatchFeatures2D(5)(x), atol=2e-3, rtol=2e-3)


def test_more_filters_than_patches_are_drawn_again(monkeypatch):
    monkeypatch.setattr(patch_features2d, "_PATCHES", 10)
    kernel = patch_features2d._kernel.__wrapped__(1, 30, 3, 0.1, 0)
    assert kernel.shape == (3, 3, 1, 30) and np.isfinite(kernel).all()


@pytest.mark.parametrize(
    "shape", [(None, 6, 8, 1), (None, None, 8, 1), (None, 8, 8, None), (None, 64)]
)
def test_images_that_are_too_small_or_of_unknown_shape_are_refused(shape):
    with pytest.raises(ValueError, match="takes images of known shape, of at least 7 pixels"):
        PatchFeatures2D(5).build(shape)
