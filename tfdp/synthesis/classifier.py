"""Ordinary, non-private training of the image classifiers that judge synthetic images."""

from __future__ import annotations

import random

import keras
import numpy as np

from tfdp import _validate
from tfdp.layers import RandomShift
from tfdp.model_checks import has_layer_graph
from tfdp.models import cifar_cnn, mnist_cnn

#: The smallest height and width that the classifiers for grey images take.
SMALLEST_SIDE = 16


def default_classifier(
    name: str, image_shape: tuple[int, int, int], num_classes: int
) -> keras.Model:
    """A small CNN with ReLU: `tfdp.models.mnist_cnn` for grey images, else `cifar_cnn`."""
    if min(image_shape[:2]) < SMALLEST_SIDE:
        raise _validate.value_error(
            name, image_shape, f"at least {SMALLEST_SIDE} pixels high and wide, or give a `model`"
        )
    if image_shape[-1] == 1:
        return mnist_cnn("relu", input_shape=image_shape, num_classes=num_classes)
    return cifar_cnn("relu", "dense", input_shape=image_shape, num_classes=num_classes)


def check_classifier(
    model: keras.Model, image_shape: tuple[int, int, int], num_classes: int
) -> None:
    """Refuses a model that cannot classify such images into so many classes."""
    if not has_layer_graph(model) or not model.built:
        raise _validate.type_error("model", model, "a built functional or sequential keras.Model")
    if model.input_shape[1:] != image_shape:
        raise _validate.value_error(
            "model", model.input_shape, f"a model of images of shape {image_shape}"
        )
    if len(model.output_shape) != 2 or model.output_shape[-1] < num_classes:
        raise _validate.value_error(
            "model", model.output_shape, f"a model with logits of {num_classes} classes"
        )


def held_for_validation(labels: np.ndarray) -> np.ndarray:
    """The last tenth of each class, as a mask ``(images,)``."""
    held = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        (places,) = np.nonzero(labels == label)
        held[places[len(places) - len(places) // 10 :]] = True
    return held


def train_classifier(
    model: keras.Model,
    x: np.ndarray,
    y: np.ndarray,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    shift: int,
    seed: int,
) -> tuple[keras.Model, int, float]:
    """Trains a copy of a classifier from new weights; the best epoch's weights are kept.

    The last tenth of each class is not trained on: accuracy on it chooses the epoch, the first of
    equals.

    Args:
        model: A functional or sequential model to logits; it is left as it is.
        x: Images in [0, 1], shape ``(images, height, width, channels)``.
        y: Integers ``(images,)``.
        epochs: How often each image is seen.
        batch_size: Images in a batch.
        learning_rate: Of Adam.
        shift: Images are moved by up to so many pixels (`tfdp.layers.RandomShift`).
        seed: Of the weights, the shifts, dropout and the order of images.

    Returns:
        The trained classifier, the epoch kept (from 1), its accuracy on the tenth held back.
    """
    held = held_for_validation(y)
    state = random.getstate()
    random.seed(seed)  # Keras draws the seeds of initial weights and of dropout from here.
    try:
        classifier = keras.models.clone_model(model)
        inputs = keras.Input(model.input_shape[1:])
        training = keras.Model(inputs, classifier(RandomShift(shift, seed=seed)(inputs)))
    finally:
        random.setstate(state)
    training.compile(
        keras.optimizers.Adam(learning_rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,  # Compiling takes longer than it saves on small networks.
    )
    order = np.random.default_rng(seed)
    (places,) = np.nonzero(~held)
    best, kept, weights = -1.0, 0, None
    for epoch in range(1, epochs + 1):
        chosen = order.permutation(places)
        training.fit(x[chosen], y[chosen], batch_size=batch_size, shuffle=False, verbose=0)
        _, accuracy = training.evaluate(x[held], y[held], batch_size=batch_size, verbose=0)
        if accuracy > best:
            best, kept, weights = accuracy, epoch, classifier.get_weights()
    classifier.set_weights(weights)
    return classifier, kept, best
