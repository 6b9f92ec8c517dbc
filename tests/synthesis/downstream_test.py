"""A classifier trained on synthetic images: what it learns, what it must not see, its repeats."""

import random

import keras
import numpy as np
import pytest
from synthesis.digits import digits

import tfdp
from tfdp.synthesis.classifier import held_for_validation, train_classifier


def linear():
    return keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(10),
        ]
    )


def test_real_digits_teach_digits_and_shuffled_labels_teach_nothing():
    images, labels = digits()
    settings = {"epochs": 8, "batch_size": 32, "learning_rate": 3e-3, "shift": 1}
    train, test = slice(0, 1000), slice(1000, None)
    result = tfdp.synthesis.downstream_accuracy(
        images[train], labels[train], images[test], labels[test], **settings
    )
    assert result.accuracy > 0.85
    assert result.model == "mnist_cnn" and result.synthetic == 1000 and result.test == 797
    weights = np.bincount(labels[test]) / 797
    assert result.accuracy == pytest.approx(np.dot(weights, list(result.by_class.values())))
    assert result.to_dict()["seed"] == 0 and "797 real images" in str(result)
    shuffled = np.random.default_rng(1).permutation(labels[train])
    result = tfdp.synthesis.downstream_accuracy(
        images[train], shuffled, images[test], labels[test], **settings
    )
    assert result.accuracy < 0.25


def test_test_images_choose_nothing_and_other_randomness_is_left_alone():
    images, labels = digits()
    settings = {"model": linear(), "epochs": 3, "learning_rate": 0.01, "seed": 1}
    random.seed(5)
    expected = random.random()
    random.seed(5)
    first, other = (
        tfdp.synthesis.downstream_accuracy(images[:300], labels[:300], images[300:], y, **settings)
        for y in (labels[300:], (labels[300:] + 1) % 10)
    )
    assert random.random() == expected
    assert (first.epoch, first.validation_accuracy) == (other.epoch, other.validation_accuracy)
    assert first.accuracy > other.accuracy


def test_a_seed_fixes_the_weights():
    images, labels = digits()
    x, y = images[:200, ..., None] / np.float32(255), labels[:200]
    settings = {"epochs": 1, "batch_size": 32, "learning_rate": 0.01, "shift": 1}
    first, again, other = (
        train_classifier(linear(), x, y, seed=seed, **settings)[0].get_weights()[0]
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


def test_the_last_tenth_of_each_class_is_held_back():
    labels = np.array([0] * 20 + [1] * 10 + [2] * 9)
    (held,) = np.nonzero(held_for_validation(labels))
    assert held.tolist() == [18, 19, 29]


def test_images_held_back_are_not_trained_on():
    images, labels = digits()
    x, y = images[:200, ..., None] / np.float32(255), labels[:200]
    changed = np.where(held_for_validation(y)[:, None, None, None], 1 - x, x)
    settings = {"epochs": 1, "batch_size": 32, "learning_rate": 0.01, "shift": 1, "seed": 0}
    first, _, _ = train_classifier(linear(), x, y, **settings)
    second, _, _ = train_classifier(linear(), changed, y, **settings)
    for weights, others in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(weights, others)


def test_the_weights_of_the_best_epoch_are_kept():
    images, labels = digits()
    x, y = images[:400, ..., None] / np.float32(255), labels[:400]
    y = np.random.default_rng(0).permutation(y)  # So that more epochs are not better.
    settings = {"batch_size": 32, "learning_rate": 0.01, "shift": 0, "seed": 0}
    classifier, epoch, accuracy = train_classifier(linear(), x, y, epochs=6, **settings)
    assert epoch < 6
    held = held_for_validation(y)
    outputs = classifier.predict(x[held], verbose=0).argmax(axis=1)
    assert np.mean(outputs == y[held]) == pytest.approx(accuracy)
    again, _, _ = train_classifier(linear(), x, y, epochs=epoch, **settings)
    for kept, weights in zip(classifier.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, weights)


def test_images_in_colour_get_another_network_and_small_ones_need_a_model_of_their_own():
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype="uint8")
    labels = np.repeat([0, 1], 10)
    result = tfdp.synthesis.downstream_accuracy(images, labels, images, labels, epochs=1)
    assert result.model == "cifar_cnn_dense"
    with pytest.raises(ValueError, match="`synthetic_x`.*16 pixels"):
        tfdp.synthesis.downstream_accuracy(images[:, :8], labels, images[:, :8], labels)
