"""What the networks for images share: the shape of an image, its scaling, and initial weights."""

from typing import Any

import keras
from keras import layers

from tfdp import _validate

# Channel statistics of ImageNet, a public data set: scaling by them costs no privacy.
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


def image_input(input_shape: Any, normalize: Any) -> tuple[keras.KerasTensor, keras.KerasTensor]:
    """Checks a model's arguments about its images, and begins the model.

    Args:
        input_shape: The shape of one image, `(height, width, channels)`.
        normalize: Whether the channels are scaled by the means and standard deviations of ImageNet.

    Returns:
        The model's input, and the images as its first layer shall see them.

    Raises:
        TypeError: If `input_shape` is not a tuple of integers, or `normalize` not a bool.
        ValueError: If `input_shape` has not three sizes, all positive, or `normalize` is asked of
            images that have not three channels.
    """
    shape = _validate.shape("input_shape", input_shape)
    if len(shape) != 3:
        raise _validate.value_error("input_shape", input_shape, "(height, width, channels)")
    inputs = keras.Input(shape)
    if not _validate.boolean("normalize", normalize):
        return inputs, inputs
    return inputs, imagenet_scaling(shape)(inputs)


def imagenet_scaling(input_shape: tuple[int, ...]) -> layers.Layer:
    """Scales channels by the means and standard deviations of ImageNet.

    Args:
        input_shape: The shape of one image, `(height, width, channels)`.

    Raises:
        ValueError: If there are not three channels.
    """
    if input_shape[-1] != len(_IMAGENET_MEAN):
        raise ValueError(
            f"`normalize` needs images of three channels. Received: input_shape={input_shape}"
        )
    scale = [1 / std for std in _IMAGENET_STD]
    offset = [-mean / std for mean, std in zip(_IMAGENET_MEAN, _IMAGENET_STD, strict=True)]
    return layers.Rescaling(scale, offset)


def normal_by_fan_in() -> keras.initializers.Initializer:
    """A normal distribution of standard deviation `1 / sqrt(fan_in)`; two calls differ in seed."""
    return keras.initializers.VarianceScaling(1.0, "fan_in", "untruncated_normal")
