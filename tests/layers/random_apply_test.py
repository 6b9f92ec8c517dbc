"""Tests of the augmentation of some images."""

import keras
import numpy as np
import tensorflow as tf

import tfdp

IMAGES = np.random.default_rng(0).random((400, 4, 4, 3)).astype("float32")


class Negative(keras.layers.Layer):
    """Changes every image, in training alone."""

    def call(self, images, training=False):
        return -images if training else images


def test_each_image_is_changed_or_not_with_the_given_probability():
    layer = tfdp.layers.RandomApply(Negative(), rate=0.3, seed=1)
    apply = tf.function(lambda images: layer(images, training=True), autograph=False)
    counts = np.zeros(len(IMAGES))
    for _ in range(50):
        out = apply(IMAGES).numpy()
        changed = (out == -IMAGES).all((1, 2, 3))
        np.testing.assert_array_equal(out[~changed], IMAGES[~changed])
        counts += changed
    assert abs(counts.mean() / 50 - 0.3) < 0.015  # five standard deviations
    assert counts.std() < 2 * np.sqrt(50 * 0.3 * 0.7)  # images are chosen independently


def test_outside_training_and_at_rate_zero_nothing_changes():
    layer = tfdp.layers.RandomApply(Negative(), rate=1.0)
    np.testing.assert_array_equal(layer(IMAGES), IMAGES)
    np.testing.assert_array_equal(layer(IMAGES, training=True), -IMAGES)
    np.testing.assert_array_equal(
        tfdp.layers.RandomApply(Negative(), rate=0)(IMAGES, training=True), IMAGES
    )


def test_it_comes_back_from_its_configuration_and_compiles():
    layer = tfdp.layers.RandomApply(keras.layers.RandomBrightness(0.4), rate=0.3, seed=2)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert copy.rate == 0.3 and copy.seed == 2 and isinstance(copy.layer, type(layer.layer))
    compiled = tf.function(lambda x: copy(x, training=True), jit_compile=True, autograph=False)
    assert compiled(IMAGES).shape == IMAGES.shape
