"""Extractors: what they are given, what they return, what they are called."""

import keras
import numpy as np
import pytest
from synthesis.digits import digits

import tfdp
from tfdp.synthesis import FeatureExtractor


def test_pixels():
    images = np.random.default_rng(0).integers(0, 256, (5, 3, 4, 3), dtype="uint8")
    features = tfdp.synthesis.pixel_features((3, 4, 3))(images)
    np.testing.assert_allclose(features.values, images.reshape(5, -1) / 255, rtol=1e-6)
    assert features.extractor == "pixels" and features.values.dtype == np.float64
    assert (len(features), features.dimension) == (5, 36)


def test_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"`images`.*3, 4, 1.*\(2, 5, 5, 1\)"):
        tfdp.synthesis.pixel_features((3, 4, 1))(np.zeros((2, 5, 5)))


def test_the_size_of_batches_changes_nothing():
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Conv2D(3, 3), keras.layers.Flatten()]
    )
    images = np.random.default_rng(0).random((7, 4, 4))
    whole, parts = (FeatureExtractor("cnn", model, size)(images).values for size in (7, 2))
    np.testing.assert_allclose(whole, parts, atol=1e-6)


def test_classifier_features_tell_classes_apart_and_carry_their_name():
    images, labels = digits()
    public = tfdp.sampling.public(images[:1000], labels[:1000])
    extractor = tfdp.synthesis.classifier_features("digits", public, epochs=4, learning_rate=5e-3)
    assert extractor.name.startswith("classifier of digits (accuracy 0.")
    features = extractor(images[1000:])
    assert features.dimension == 32 and features.extractor == extractor.name
    # The nearest other image in these features is mostly of the same class.
    values, labels = features.values, labels[1000:]
    distances = ((values[:, None] - values[None]) ** 2).sum(-1)
    np.fill_diagonal(distances, np.inf)
    assert np.mean(labels[distances.argmin(axis=1)] == labels) > 0.85


def test_classifier_features_of_a_given_model_are_what_its_last_layer_gets():
    images, labels = digits()
    public = tfdp.sampling.public(images[:200], labels[:200])
    model = keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(7, "relu"),
            keras.layers.Dense(10),
        ]
    )
    before = model.get_weights()
    settings = {"model": model, "epochs": 1}
    first, again = (
        tfdp.synthesis.classifier_features("digits", public, seed=1, **settings)(images[:20])
        for _ in range(2)
    )
    assert first.dimension == 7
    np.testing.assert_array_equal(first.values, again.values)
    for weights, kept in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weights, kept)


@pytest.mark.slow
def test_inception_reads_its_weights_and_takes_grey_images(tmp_path):
    path = tmp_path / "random.weights.h5"
    network = keras.applications.InceptionV3(
        include_top=False, weights=None, input_shape=(299, 299, 3), pooling="avg"
    )
    network.save_weights(path)
    extractor = tfdp.synthesis.inception_features(str(path), (28, 28, 1))
    assert extractor.name == "InceptionV3 (random.weights.h5)"
    images = np.random.default_rng(0).random((1, 28, 28, 1)).astype("float32")
    features = extractor(images)
    scaled = keras.ops.image.resize(np.repeat(images, 3, axis=-1), (299, 299)) * 2 - 1
    np.testing.assert_allclose(features.values, network(scaled, training=False), rtol=1e-3)
    assert features.dimension == 2048


def test_features_that_are_not_numbers_are_refused():
    with pytest.raises(ValueError, match="finite.*1 rows"):
        tfdp.synthesis.Features("x", [[1.0, 2.0], [np.nan, 0.0]])
