"""Features in which sets of images are compared, by named extractors."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import keras
import numpy as np

from tfdp import _validate
from tfdp.model_checks import has_layer_graph
from tfdp.sampling import PublicData
from tfdp.synthesis.classifier import (
    check_classifier,
    default_classifier,
    held_for_validation,
    train_classifier,
)
from tfdp.synthesis.pictures import as_images, as_labels

INCEPTION_SIDE = 299


@dataclasses.dataclass(frozen=True, eq=False)  # Arrays have no equality of their own.
class Features:
    """Features of a set of images, and what made them. Made by a `FeatureExtractor`.

    Features from elsewhere take part too: figures are compared only between features of one name.

    Attributes:
        extractor: Name of what made them.
        values: Finite numbers, shape ``(images, dimension)``; float64.

    Raises:
        TypeError: If ``extractor`` is no string, or ``values`` are no numbers.
        ValueError: If ``values`` are empty, not finite, or of another rank.

    Example:
        >>> import numpy as np
        >>> features = Features("mean brightness", np.array([[0.1], [0.7]]))
        >>> len(features), features.dimension
        (2, 1)
    """

    extractor: str
    values: np.ndarray = dataclasses.field(repr=False)

    def __post_init__(self):
        _validate.text("extractor", self.extractor)
        try:
            values = np.asarray(self.values, "float64")
        except (TypeError, ValueError):
            raise _validate.type_error("values", self.values, "an array of numbers") from None
        if values.ndim != 2 or not values.size:
            raise _validate.value_error("values", values.shape, "of shape (images, dimension)")
        if not np.isfinite(values).all():
            count = int((~np.isfinite(values).all(axis=1)).sum())
            raise _validate.value_error("values", f"{count} rows that are not", "finite")
        object.__setattr__(self, "values", values)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def dimension(self) -> int:
        """Numbers to an image."""
        return self.values.shape[1]


@dataclasses.dataclass(frozen=True)
class FeatureExtractor:
    """A model that turns images into features, with a name that goes into every result.

    Call it on images, uint8 or floats in [0, 1] of shape ``(images, height, width, channels)``,
    for their `Features`.

    Attributes:
        name: What it is and, where it was trained, on what.
        model: From images ``(batch, height, width, channels)``, float32 in [0, 1], to features
            ``(batch, dimension)``.
        batch_size: Images held in memory at a time. Defaults to 128.

    Raises:
        TypeError: If an attribute has the wrong type.
        ValueError: If ``model`` is not built or its shapes are others.

    Example:
        >>> import keras, numpy as np
        >>> mean = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.GlobalAveragePooling2D()])
        >>> extractor = FeatureExtractor("mean brightness", mean)
        >>> extractor(np.full((3, 4, 4, 1), 0.5)).values.tolist()
        [[0.5], [0.5], [0.5]]
    """

    name: str
    model: keras.Model = dataclasses.field(repr=False)
    batch_size: int = 128

    def __post_init__(self):
        _validate.text("name", self.name)
        if not has_layer_graph(self.model) or not self.model.built:
            raise _validate.type_error(
                "model", self.model, "a built functional or sequential keras.Model"
            )
        shapes = self.model.input_shape, self.model.output_shape
        if [len(shape) for shape in shapes] != [4, 2]:
            raise _validate.value_error("model", shapes, "a model from images to vectors")
        _validate.integer("batch_size", self.batch_size, minimum=1)

    def __call__(self, images: Any) -> Features:
        values = as_images("images", images)
        expected = self.model.input_shape[1:]
        if values.shape[1:] != expected:
            raise _validate.value_error(
                "images", values.shape, f"of shape (images, {', '.join(map(str, expected))})"
            )
        return Features(self.name, self.model.predict(values, self.batch_size, verbose=0))


def pixel_features(image_shape: tuple[int, int, int]) -> FeatureExtractor:
    """The pixels themselves: for near-copies, not for how images look.

    Args:
        image_shape: ``(height, width, channels)``.

    Returns:
        An extractor named ``"pixels"``.

    Raises:
        TypeError: If ``image_shape`` is not a tuple of integers.
        ValueError: If it has not three sizes, all positive.

    Example:
        >>> import numpy as np, tfdp
        >>> extractor = tfdp.synthesis.pixel_features((4, 4, 1))
        >>> extractor(np.zeros((3, 4, 4, 1))).values.shape
        (3, 16)
    """
    model = keras.Sequential([keras.Input(_image_shape(image_shape)), keras.layers.Flatten()])
    return FeatureExtractor("pixels", model)


def inception_features(weights: str, image_shape: tuple[int, int, int]) -> FeatureExtractor:
    """Keras's InceptionV3 with average pooling, 2048 features.

    Images are scaled to 299 x 299 bilinearly; grey becomes three equal channels. The network is
    the one of `keras.applications`: published Fréchet distances mostly use another conversion of
    Inception, so that figures compare with each other, not with those.

    Args:
        weights: File of weights without the top,
            ``inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5`` of Keras.
        image_shape: ``(height, width, channels)`` of the images, with 1 or 3 channels.

    Returns:
        An extractor named after the network and the file.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If there is no such file, or ``image_shape`` is no shape of images.

    Example:
        With weights that were downloaded before::

            extractor = tfdp.synthesis.inception_features(
                "inception_v3_weights_tf_dim_ordering_tf_kernels_notop.h5", (32, 32, 3))
            real, synthetic = extractor(real_images), extractor(synthetic_images)
            print(tfdp.synthesis.frechet_distance(real, synthetic))

    References:
        - Szegedy et al. 2016, "Rethinking the Inception Architecture", arXiv:1512.00567.
        - Heusel et al. 2017, arXiv:1706.08500, section 3: its pooled features.
    """
    weights = _validate.path("weights", weights)
    if not os.path.isfile(weights):
        raise _validate.value_error("weights", weights, "the path of a file")
    inputs = keras.Input(_image_shape(image_shape))
    x = inputs
    if image_shape[-1] == 1:
        x = keras.layers.Concatenate()([x, x, x])
    elif image_shape[-1] != 3:
        raise _validate.value_error("image_shape", image_shape, "of 1 or 3 channels")
    x = keras.layers.Resizing(INCEPTION_SIDE, INCEPTION_SIDE)(x)
    x = keras.layers.Rescaling(2.0, -1.0)(x)
    network = keras.applications.InceptionV3(
        include_top=False,
        weights=weights,
        input_shape=(INCEPTION_SIDE, INCEPTION_SIDE, 3),
        pooling="avg",
    )
    name = f"InceptionV3 ({os.path.basename(weights)})"
    return FeatureExtractor(name, keras.Model(inputs, network(x, training=False)), batch_size=32)


def classifier_features(
    name: str,
    public: PublicData,
    *,
    model: keras.Model | None = None,
    epochs: int = 5,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    seed: int = 0,
) -> FeatureExtractor:
    """Trains a classifier on public images and takes what its last layer is given.

    A measure for small images where no network trained on photographs fits. Training is ordinary
    and not private, hence the public data; a tenth of each class chooses the epoch.

    Args:
        name: Of the data, such as ``"EMNIST letters"``; it goes into every result.
        public: ``tfdp.sampling.public(images, labels)``: uint8 or floats in [0, 1] of shape
            ``(images, height, width, channels)``, with at least ten of some class, and integers.
        model: A functional or sequential model to logits, whose last layer alone makes them. A
            copy with new weights is trained. Defaults to ``None``: a small CNN,
            `tfdp.models.mnist_cnn` or, for images in colour, `tfdp.models.cifar_cnn`.
        epochs: How often each image is seen. Defaults to 5.
        batch_size: Images in a batch. Defaults to 128.
        learning_rate: Of Adam. Defaults to 1e-3.
        seed: Of weights and order. Defaults to 0.

    Returns:
        An extractor whose name has the data's and the accuracy on the tenth.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range.

    Formal guarantee: none. Features of private images are as private as these images, and so is
    every figure made of them.

    Example:
        >>> import numpy as np, tfdp
        >>> images = np.random.default_rng(0).random((40, 28, 28, 1))
        >>> public = tfdp.sampling.public(images, np.arange(40) % 2)
        >>> extractor = tfdp.synthesis.classifier_features("noise", public, epochs=1)
        >>> extractor(images).values.shape
        (40, 32)
    """
    name = _validate.text("name", name)
    if not isinstance(public, PublicData):
        raise _validate.type_error("public", public, "tfdp.sampling.public(images, labels)")
    images, labels, _ = public.examples()
    if isinstance(images, dict) or labels is None:
        raise _validate.value_error("public", type(images), "images with labels")
    images = as_images("public", images)
    labels = as_labels("public", labels, len(images))
    settings = {
        "epochs": _validate.integer("epochs", epochs, minimum=1),
        "batch_size": _validate.integer("batch_size", batch_size, minimum=1),
        "learning_rate": _validate.positive("learning_rate", learning_rate),
        "seed": _validate.integer("seed", seed, minimum=0),
    }
    classes = int(labels.max()) + 1
    if not held_for_validation(labels).any():
        raise _validate.value_error("public", f"{len(labels)} images", "ten images of some class")
    if model is None:
        model = default_classifier("public", images.shape[1:], classes)
    check_classifier(model, images.shape[1:], classes)
    classifier, _, accuracy = train_classifier(model, images, labels, shift=2, **settings)
    return FeatureExtractor(
        f"classifier of {name} (accuracy {accuracy:.3f})",
        keras.Model(classifier.inputs, classifier.layers[-1].input),
    )


def check_comparable(**features: Any) -> None:
    """Refuses arguments that are not `Features` of one extractor, by their names."""
    for name, value in features.items():
        if not isinstance(value, Features):
            raise _validate.type_error(name, value, "tfdp.synthesis.Features")
    (first, reference), *others = features.items()
    for name, value in others:
        if (value.extractor, value.dimension) != (reference.extractor, reference.dimension):
            raise _validate.value_error(
                name, value, f"features of the same extractor as `{first}`, {reference!r}"
            )


def _image_shape(image_shape: Any) -> tuple[int, ...]:
    shape = _validate.shape("image_shape", image_shape)
    if len(shape) != 3:
        raise _validate.value_error("image_shape", image_shape, "(height, width, channels)")
    return shape
