"""A small convolutional network on features of patches."""

import keras
from keras import layers

from tfdp import _validate
from tfdp.models.activation import Activation, new_activation_layer


def patch_cnn(
    activation: Activation = "tanh",
    *,
    filters: int = 128,
    input_shape: tuple[int, int, int] = (3, 3, 800),
    num_classes: int = 10,
) -> keras.Model:
    """A CNN on features of `tfdp.layers.PatchFeatures2D`: one hidden layer, and a linear one.

    | layer | output shape | parameters |
    | --- | --- | --- |
    | Conv2D 128, 1x1 | (batch, 3, 3, 128) | 102,528 |
    | activation, Flatten | (batch, 1,152) | |
    | Dense 10 | (batch, 10) | 11,530 |

    The hidden layer is the same in every part of the image. The last layer begins at zero, as that
    of a linear model would: the first predictions are equal for all classes. A design of this
    project, not of the literature; `RESULTS.md` compares it with the linear model.

    Args:
        activation: The name of a Keras activation, a function or a layer. Defaults to `"tanh"`.
        filters: The size of the hidden layer in each part. Defaults to `128`.
        input_shape: The shape of one image's features, `(height, width, channels)`. Defaults to
            that of 400 filters in 3 by 3 parts, `(3, 3, 800)`.
        num_classes: The number of classes. Defaults to `10`.

    Returns:
        A model from features of shape `(batch, height, width, channels)` to logits of shape
        `(batch, num_classes)`.

    Raises:
        TypeError: If `input_shape` is not a tuple of integers, or `filters` or `num_classes` not
            an integer.
        ValueError: If a size or number is not positive, or `activation` is unknown to Keras.

    Example:
        >>> import tfdp
        >>> tfdp.models.patch_cnn().count_params()
        114058
    """
    filters = _validate.integer("filters", filters, minimum=1)
    input_shape = _validate.shape("input_shape", input_shape)
    num_classes = _validate.integer("num_classes", num_classes, minimum=1)
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Conv2D(filters, 1),
            new_activation_layer(activation),
            layers.Flatten(),
            layers.Dense(num_classes, kernel_initializer="zeros", dtype="float32", name="logits"),
        ],
        name="patch_cnn",
    )
