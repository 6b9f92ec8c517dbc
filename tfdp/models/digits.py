"""A perceptron for the 8x8 digits that come with scikit-learn."""

import keras
from keras import layers

from tfdp import _validate
from tfdp.models.activation import Activation, new_activation_layer


def digits_mlp(
    activation: Activation = "tanh",
    *,
    input_shape: tuple[int, ...] = (8, 8, 1),
    num_classes: int = 10,
) -> keras.Model:
    """A perceptron with one hidden layer for the 8x8 digits of scikit-learn: 4,810 parameters.

    | layer | output shape | parameters |
    | --- | --- | --- |
    | Flatten | (batch, 64) | |
    | Dense 64, activation | (batch, 64) | 4,160 |
    | Dense 10 | (batch, 10) | 650 |

    It is small on purpose: there are about 1,400 training images, and the noise of private training
    grows with the number of parameters.

    Args:
        activation: The name of a Keras activation, a function or a layer, used after the hidden
            layer. Defaults to `"tanh"`.
        input_shape: The shape of one image. Defaults to `(8, 8, 1)`.
        num_classes: The number of classes. Defaults to `10`.

    Returns:
        A model from images of shape `(batch, *input_shape)`, float32 in [0, 1], to logits of shape
        `(batch, num_classes)`.

    Raises:
        TypeError: If `input_shape` is not a tuple of integers, or `num_classes` not an integer.
        ValueError: If a size or number is not positive, or `activation` is unknown to Keras.

    Example:
        >>> import tfdp
        >>> tfdp.models.digits_mlp("relu").output_shape
        (None, 10)
    """
    input_shape = _validate.shape("input_shape", input_shape)
    num_classes = _validate.integer("num_classes", num_classes, minimum=1)
    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Flatten(),
            layers.Dense(64),
            new_activation_layer(activation),
            layers.Dense(num_classes, dtype="float32", name="logits"),
        ],
        name="digits_mlp",
    )
