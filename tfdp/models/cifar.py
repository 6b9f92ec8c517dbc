"""The convolutional networks of the published private results on CIFAR-10."""

import keras
from keras import layers

from tfdp import _validate
from tfdp.models.activation import Activation, new_activation_layer
from tfdp.models.images import imagenet_scaling


def cifar_cnn(
    activation: Activation = "tanh",
    variant: str = "all_conv",
    *,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    num_classes: int = 10,
    normalize: bool = False,
) -> keras.Model:
    """A CNN for 32x32 images in colour, in one of two published variants.

    All convolutions are 3x3 with strides 1 and "same" padding, and every layer with weights but
    the last is followed by the activation.

    | | `"all_conv"` | `"dense"` |
    | --- | --- | --- |
    | (batch, 32, 32, 3) | Conv 32, Conv 32, average pooling | Conv 32, Conv 32, max pooling |
    | (batch, 16, 16, 32) | Conv 64, Conv 64, average pooling | Conv 64, Conv 64, max pooling |
    | (batch, 8, 8, 64) | Conv 128, Conv 128, average pooling | Conv 128, Conv 128, max pooling |
    | (batch, 4, 4, 128) | Conv 256, Conv 10 | Flatten (2,048), Dense 128, Dense 10 |
    | (batch, 4, 4, 10) | mean over positions | |
    | parameters | 605,226 | 550,570 |

    Args:
        activation: The name of a Keras activation, a function or a layer. Defaults to `"tanh"`.
        variant: `"all_conv"`, the network attributed to Papernot et al., or `"dense"`, that of
            Tramer and Boneh. Defaults to `"all_conv"`.
        input_shape: The shape of one image, `(height, width, channels)`. Defaults to that of
            CIFAR-10, `(32, 32, 3)`.
        num_classes: The number of classes. Defaults to `10`.
        normalize: Whether the model first scales its input by the channel means and standard
            deviations of ImageNet, as Tramer and Boneh do. Needs three channels. Defaults to
            `False`.

    Returns:
        A model from images of shape `(batch, height, width, channels)`, float32 in [0, 1], to
        logits of shape `(batch, num_classes)`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `variant` or `activation` is unknown, a size or number is not positive, or
            `normalize` is asked of images that have not three channels.

    Example:
        >>> import tfdp
        >>> tfdp.models.cifar_cnn(variant="dense").count_params()
        550570

    References:
        - [Papernot et al. (2021)](https://arxiv.org/abs/2007.14191), Tempered Sigmoid Activations
          for Deep Learning with Differential Privacy.
        - [Tramer and Boneh (2021)](https://arxiv.org/abs/2011.11660), Differentially Private
          Learning Needs Better Features (or Much More Data).
    """
    variant = _validate.one_of("variant", variant, tuple(_HEADS))
    input_shape = _validate.shape("input_shape", input_shape)
    num_classes = _validate.integer("num_classes", num_classes, minimum=1)
    normalize = _validate.boolean("normalize", normalize)
    pooling, head = _HEADS[variant]
    stack = [keras.Input(input_shape)]
    if normalize:
        stack.append(imagenet_scaling(input_shape))
    for channels in (32, 64, 128):
        for _ in range(2):
            stack += [_conv(channels), new_activation_layer(activation)]
        stack.append(pooling(2))
    stack += head(activation, num_classes)
    return keras.Sequential(stack, name=f"cifar_cnn_{variant}")


def _conv(channels: int, **kwargs) -> layers.Layer:
    """A 3x3 convolution that keeps height and width."""
    return layers.Conv2D(channels, 3, padding="same", **kwargs)


def _all_conv_head(activation: Activation, num_classes: int) -> list[layers.Layer]:
    """A wide convolution, one with a channel for each class, and the mean over all positions."""
    return [
        _conv(256),
        new_activation_layer(activation),
        _conv(num_classes),
        layers.GlobalAveragePooling2D(dtype="float32", name="logits"),
    ]


def _dense_head(activation: Activation, num_classes: int) -> list[layers.Layer]:
    """Two dense layers."""
    return [
        layers.Flatten(),
        layers.Dense(128),
        new_activation_layer(activation),
        layers.Dense(num_classes, dtype="float32", name="logits"),
    ]


_HEADS = {
    "all_conv": (layers.AveragePooling2D, _all_conv_head),
    "dense": (layers.MaxPooling2D, _dense_head),
}
