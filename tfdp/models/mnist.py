"""The convolutional network of the published private results on MNIST and Fashion-MNIST."""

import keras
from keras import layers

from tfdp import _validate
from tfdp.models.activation import Activation, new_activation_layer


def mnist_cnn(
    activation: Activation = "tanh",
    *,
    input_shape: tuple[int, int, int] = (28, 28, 1),
    num_classes: int = 10,
    standardize: bool = False,
) -> keras.Model:
    """A small CNN for 28x28 images in grey: 26,010 parameters.

    | layer | output shape | parameters |
    | --- | --- | --- |
    | Conv2D 16, 8x8, strides 2, "same" | (batch, 14, 14, 16) | 1,040 |
    | activation, MaxPooling2D 2x2, strides 1 | (batch, 13, 13, 16) | |
    | Conv2D 32, 4x4, strides 2, "valid" | (batch, 5, 5, 32) | 8,224 |
    | activation, MaxPooling2D 2x2, strides 1 | (batch, 4, 4, 32) | |
    | Flatten | (batch, 512) | |
    | Dense 32, activation | (batch, 32) | 16,416 |
    | Dense 10 | (batch, 10) | 330 |

    Args:
        activation: The name of a Keras activation, a function or a layer, used after each layer
            with weights but the last. Defaults to `"tanh"`.
        input_shape: The shape of one image, `(height, width, channels)`. Defaults to that of
            MNIST, `(28, 28, 1)`.
        num_classes: The number of classes. Defaults to `10`.
        standardize: Whether the model first brings the pixels of each image to mean 0 and variance
            1, by what this image shows alone, so that it costs no privacy. Defaults to `False`, as
            published.

    Returns:
        A model from images of shape `(batch, height, width, channels)`, float32 in [0, 1], to
        logits of shape `(batch, num_classes)`.

    Raises:
        TypeError: If `input_shape` is not a tuple of integers, `num_classes` not an integer, or
            `standardize` not a boolean.
        ValueError: If a size or number is not positive, or `activation` is unknown to Keras.

    Example:
        >>> import tfdp
        >>> tfdp.models.mnist_cnn(activation=tfdp.layers.TemperedSigmoid()).count_params()
        26010

    References:
        - [Papernot et al. (2021)](https://arxiv.org/abs/2007.14191), Tempered Sigmoid Activations
          for Deep Learning with Differential Privacy.
        - [Tramer and Boneh (2021)](https://arxiv.org/abs/2011.11660), Differentially Private
          Learning Needs Better Features (or Much More Data).
    """
    input_shape = _validate.shape("input_shape", input_shape)
    num_classes = _validate.integer("num_classes", num_classes, minimum=1)
    first = []
    if _validate.boolean("standardize", standardize):  # One group: all pixels of one image.
        first = [layers.GroupNormalization(1, epsilon=1e-5, center=False, scale=False)]
    return keras.Sequential(
        [
            keras.Input(input_shape),
            *first,
            layers.Conv2D(16, 8, strides=2, padding="same"),
            new_activation_layer(activation),
            layers.MaxPooling2D(2, strides=1),
            layers.Conv2D(32, 4, strides=2, padding="valid"),
            new_activation_layer(activation),
            layers.MaxPooling2D(2, strides=1),
            layers.Flatten(),
            layers.Dense(32),
            new_activation_layer(activation),
            layers.Dense(num_classes, dtype="float32", name="logits"),
        ],
        name="mnist_cnn",
    )
