"""The small convolutional networks that the literature trains privately on scattering features."""

import keras
from keras import layers

from tfdp import _validate
from tfdp.models.activation import Activation, new_activation_layer


def scattering_cnn(
    activation: Activation = "tanh",
    variant: str = "narrow",
    *,
    input_shape: tuple[int, int, int] = (7, 7, 81),
    num_classes: int = 10,
) -> keras.Model:
    """A CNN on features of `tfdp.layers.Scattering2D`, in one of two published variants.

    | | `"narrow"`, for MNIST | `"wide"`, for CIFAR-10 |
    | --- | --- | --- |
    | features | (batch, 7, 7, 81) | (batch, 8, 8, 243) |
    | 3x3, "same" | Conv 16, strides 2 | Conv 64, max pooling 2x2 |
    | 3x3, "same" | Conv 32 | Conv 64 |
    | | Flatten (512), Dense 32 | Flatten (1,024) |
    | | Dense 10 | Dense 10 |
    | parameters | 33,066 | 187,210 |

    Every layer with weights but the last is followed by the activation.

    Args:
        activation: The name of a Keras activation, a function or a layer. Defaults to `"tanh"`.
        variant: `"narrow"` or `"wide"`. Defaults to `"narrow"`.
        input_shape: The shape of one image's features, `(height, width, channels)`. Defaults to
            that of MNIST with two scales, `(7, 7, 81)`.
        num_classes: The number of classes. Defaults to `10`.

    Returns:
        A model from features of shape `(batch, height, width, channels)` to logits of shape
        `(batch, num_classes)`.

    Raises:
        ValueError: If `variant` is unknown.

    Example:
        >>> import tfdp
        >>> tfdp.models.scattering_cnn().count_params()
        33066
        >>> tfdp.models.scattering_cnn(variant="wide", input_shape=(8, 8, 243)).count_params()
        187210

    References:
        - [Tramer and Boneh (2021)](https://arxiv.org/abs/2011.11660), Differentially Private
          Learning Needs Better Features (or Much More Data), and its code.
    """
    variant = _validate.one_of("variant", variant, ("narrow", "wide"))
    input_shape = _validate.shape("input_shape", input_shape)
    num_classes = _validate.integer("num_classes", num_classes, minimum=1)

    def conv(filters: int, strides: int = 1) -> list[layers.Layer]:
        layer = layers.Conv2D(filters, 3, strides=strides, padding="same")
        return [layer, new_activation_layer(activation)]

    if variant == "narrow":
        hidden = [*conv(16, strides=2), *conv(32), layers.Flatten()]
        hidden += [layers.Dense(32), new_activation_layer(activation)]
    else:
        hidden = [*conv(64), layers.MaxPooling2D(2), *conv(64), layers.Flatten()]
    logits = layers.Dense(num_classes, dtype="float32", name="logits")
    return keras.Sequential(
        [keras.Input(input_shape), *hidden, logits], name=f"scattering_cnn_{variant}"
    )
