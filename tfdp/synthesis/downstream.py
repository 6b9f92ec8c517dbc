"""What synthetic images are worth for training: accuracy on real images."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from tfdp import _validate
from tfdp.synthesis.classifier import (
    check_classifier,
    default_classifier,
    held_for_validation,
    train_classifier,
)
from tfdp.synthesis.pictures import as_images, as_labels


@dataclasses.dataclass(frozen=True)
class DownstreamAccuracy:
    """The result of `downstream_accuracy`.

    Attributes:
        accuracy: On real test images.
        by_class: The same for each class that the test set has, in order of labels.
        validation_accuracy: On the synthetic images held back, in the epoch kept.
        epoch: The epoch kept, from 1.
        epochs: The epochs trained.
        model: Name of the classifier.
        synthetic: Number of synthetic images, with those held back.
        test: Number of real test images.
        seed: Of training.

    Example:
        >>> by_class = {0: 0.8, 1: 1.0}
        >>> accuracy = DownstreamAccuracy(0.9, by_class, 0.85, 3, 5, "cnn", 200, 100, seed=0)
        >>> print(accuracy)
        accuracy 0.9000 on 100 real images of cnn trained on 200 synthetic images (epoch 3 of 5,
        0.8500 on synthetic images held back)
    """

    accuracy: float
    by_class: dict[int, float]
    validation_accuracy: float
    epoch: int
    epochs: int
    model: str
    synthetic: int
    test: int
    seed: int

    def __str__(self) -> str:
        return (
            f"accuracy {self.accuracy:.4f} on {self.test} real images of {self.model} trained on "
            f"{self.synthetic} synthetic images (epoch {self.epoch} of {self.epochs}, "
            f"{self.validation_accuracy:.4f} on synthetic images held back)"
        )

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def downstream_accuracy(
    synthetic_x: Any,
    synthetic_y: Any,
    test_x: Any,
    test_y: Any,
    *,
    model: keras.Model | None = None,
    epochs: int = 20,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    shift: int = 2,
    seed: int = 0,
) -> DownstreamAccuracy:
    """Trains a classifier on synthetic images only and scores it on real test images.

    Training is ordinary, with Adam. The last tenth of each class of the synthetic images is held
    back, and accuracy on it chooses the epoch; test images choose nothing. The same arguments give
    the same result on the same machine, as far as TensorFlow's arithmetic is deterministic there.

    Args:
        synthetic_x: Shape ``(images, height, width, channels)``; uint8, or floats in [0, 1]. At
            least ten of some class.
        synthetic_y: Their classes, integers ``(images,)``.
        test_x: Real images of the same shape.
        test_y: Their classes.
        model: A functional or sequential model to logits, of which a copy with new weights is
            trained. Defaults to ``None``: a small CNN with ReLU, `tfdp.models.mnist_cnn` or, for
            images in colour, `tfdp.models.cifar_cnn`.
        epochs: How often each image is seen. Defaults to 20.
        batch_size: Images in a batch. Defaults to 128.
        learning_rate: Of Adam. Defaults to 1e-3.
        shift: Images are moved at random by up to so many pixels. Defaults to 2.
        seed: Of weights, shifts and order. Defaults to 0.

    Returns:
        A `DownstreamAccuracy`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If shapes do not fit, or a number is out of range.

    Formal guarantee: training on the output of a private generator is post-processing and costs
    nothing. The accuracy is a figure about the test images, which are not protected.

    References:
        - Ravuri and Vinyals 2019, "Classification Accuracy Score for Conditional Generative
          Models", arXiv:1905.10887, section 3.

    Example:
        Two classes, dark and light, that anything can tell apart:

        >>> import numpy as np, tfdp
        >>> labels = np.arange(200) % 2
        >>> images = np.random.default_rng(0).random((200, 28, 28, 1)) / 2
        >>> images[labels == 1] += 0.5
        >>> found = tfdp.synthesis.downstream_accuracy(
        ...     images[:100], labels[:100], images[100:], labels[100:], epochs=10, batch_size=16)
        >>> found.accuracy > 0.9
        True
    """
    synthetic_x, test_x = as_images("synthetic_x", synthetic_x), as_images("test_x", test_x)
    synthetic_y = as_labels("synthetic_y", synthetic_y, len(synthetic_x))
    test_y = as_labels("test_y", test_y, len(test_x))
    image_shape = synthetic_x.shape[1:]
    if test_x.shape[1:] != image_shape:
        raise _validate.value_error(
            "test_x", test_x.shape, f"images of the shape of `synthetic_x`, {image_shape}"
        )
    if not held_for_validation(synthetic_y).any():
        raise _validate.value_error(
            "synthetic_y", f"{len(synthetic_y)} images", "ten images of some class"
        )
    settings = {
        "epochs": _validate.integer("epochs", epochs, minimum=1),
        "batch_size": _validate.integer("batch_size", batch_size, minimum=1),
        "learning_rate": _validate.positive("learning_rate", learning_rate),
        "shift": _validate.integer(
            "shift", shift, minimum=0, maximum=min(image_shape[:2]) - 1
        ),  # Images are padded by reflection.
        "seed": _validate.integer("seed", seed, minimum=0),
    }
    classes = int(max(synthetic_y.max(), test_y.max())) + 1
    if model is None:
        model = default_classifier("synthetic_x", image_shape, classes)
    check_classifier(model, image_shape, classes)
    classifier, epoch, validation_accuracy = train_classifier(
        model, synthetic_x, synthetic_y, **settings
    )
    right = classifier.predict(test_x, batch_size, verbose=0).argmax(axis=1) == test_y
    return DownstreamAccuracy(
        accuracy=float(right.mean()),
        by_class={int(label): float(right[test_y == label].mean()) for label in np.unique(test_y)},
        validation_accuracy=validation_accuracy,
        epoch=epoch,
        epochs=settings["epochs"],
        model=model.name,
        synthetic=len(synthetic_x),
        test=len(test_x),
        seed=settings["seed"],
    )
