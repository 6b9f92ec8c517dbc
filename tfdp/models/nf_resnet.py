"""The residual network without normalization of the published private results on ImageNet."""

import math
from typing import Any

import keras
from keras import layers

from tfdp import _validate
from tfdp.layers import SkipInit, WeightStandardizedConv2D
from tfdp.models.images import image_input, normal_by_fan_in

# Of a standard normal x, relu(x) has the variance (1 - 1 / pi) / 2: with this factor it has 1.
_RELU_GAIN = math.sqrt(2 / (1 - 1 / math.pi))
# The convolutions in the middle of a block have this many times fewer filters than the block.
_BOTTLENECK = 4


def nf_resnet50(
    *,
    input_shape: tuple[int, int, int] = (224, 224, 3),
    num_classes: int = 1000,
    depths: tuple[int, ...] = (3, 4, 6, 3),
    widths: tuple[int, ...] = (256, 512, 1024, 2048),
    stem_width: int = 64,
    alpha: float = 0.2,
    normalize: bool = False,
) -> keras.Model:
    """A residual network that normalizes weights in place of activations: NF-ResNet-50.

    | part | output shape |
    | --- | --- |
    | Conv 64, 7x7, strides 2; max pooling 3x3, strides 2 | (batch, 56, 56, 64) |
    | 3 blocks of width 256 | (batch, 56, 56, 256) |
    | 4 blocks of width 512, the first with strides 2 | (batch, 28, 28, 512) |
    | 6 blocks of width 1024, the first with strides 2 | (batch, 14, 14, 1024) |
    | 3 blocks of width 2048, the first with strides 2 | (batch, 7, 7, 2048) |
    | ReLU, mean over positions, Dense 1000 | (batch, 1000) |

    All convolutions are `WeightStandardizedConv2D`, and every ReLU is multiplied by 1.714, so that
    both keep the variance of their inputs. With `a = beta * act(x)` a block computes

    `alpha * s * conv3(act(conv2(act(conv1(a))))) + shortcut`

    where `conv1` and `conv3` are 1x1, `conv2` is 3x3, the first two have a fourth of the block's
    filters, and `s` is a trainable number that starts from one (`SkipInit`). In the first block of
    a stage the shortcut is a convolution 1x1 of `a`, after average pooling if the block has
    strides; in the others it is `x`. `1 / beta ** 2` is the variance that `x` has by this
    construction: one for the first block of the network, `1 + alpha ** 2` after the first of a
    stage, and `alpha ** 2` more after each of the others. NF-ResNet-50 has 25,557,048 parameters.

    Args:
        input_shape: The shape of one image, `(height, width, channels)`. Defaults to
            `(224, 224, 3)`.
        num_classes: The number of classes. Defaults to `1000`.
        depths: The number of blocks of each stage. Defaults to that of NF-ResNet-50,
            `(3, 4, 6, 3)`.
        widths: The number of filters of each stage's blocks, multiples of 4. Defaults to
            `(256, 512, 1024, 2048)`.
        stem_width: The number of filters of the first convolution. Defaults to `64`.
        alpha: A positive number, the standard deviation that a block adds. Defaults to `0.2`.
        normalize: Whether the model first scales its input by the channel means and standard
            deviations of ImageNet. These are published, but where ImageNet is the private data they
            are statistics of it. Needs three channels. Defaults to `False`.

    Returns:
        A model from images of shape `(batch, height, width, channels)`, float32 in [0, 1], to
        logits of shape `(batch, num_classes)`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `depths` and `widths` are empty or not equally long, a width is not a
            multiple of 4, a number or size is not positive, or `normalize` is asked of images that
            have not three channels.

    Example:
        >>> import tfdp
        >>> small = tfdp.models.nf_resnet50(
        ...     input_shape=(32, 32, 3), num_classes=10, depths=(1, 1), widths=(32, 64))
        >>> small.output_shape
        (None, 10)

    References:
        - [Brock et al. (2021)](https://arxiv.org/abs/2101.08692), Characterizing signal propagation
          to close the performance gap in unnormalized ResNets, sections 3 and 4.
        - [De and Smith (2020)](https://arxiv.org/abs/2002.10444), Batch Normalization Biases
          Residual Blocks Towards the Identity Function in Deep Networks: `s`.
        - [Sander et al. (2023)](https://arxiv.org/abs/2210.03403), TAN Without a Burn: Scaling Laws
          of DP-SGD: training it privately, with `s` starting from one.
    """
    num_classes = _validate.integer("num_classes", num_classes, minimum=1)
    depths = _validate.shape("depths", depths)
    widths = _validate.shape("widths", widths)
    if not depths:
        raise _validate.value_error("depths", depths, "a number of blocks for at least one stage")
    if len(widths) != len(depths):
        raise _validate.value_error("widths", widths, f"as long as `depths`, {len(depths)}")
    if any(filters % _BOTTLENECK for filters in widths):
        raise _validate.value_error("widths", widths, f"multiples of {_BOTTLENECK}")
    stem_width = _validate.integer("stem_width", stem_width, minimum=1)
    alpha = _validate.positive("alpha", alpha)
    inputs, x = image_input(input_shape, normalize)
    x = _conv(stem_width, 7, strides=2)(x)
    x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
    variance = 1.0
    for stage, (depth, filters) in enumerate(zip(depths, widths, strict=True)):
        for block in range(depth):
            activated = _relu(x, 1 / math.sqrt(variance))
            strides = 2 if stage and not block else 1
            if block == 0:
                x = _shortcut(activated, filters, strides)
                variance = 1.0
            residual = _residual(activated, filters, strides)
            x = layers.Add()([x, layers.Rescaling(alpha)(residual)])
            variance += alpha**2
    x = layers.GlobalAveragePooling2D()(_relu(x))
    initializer = keras.initializers.RandomNormal(stddev=0.01)
    logits = layers.Dense(
        num_classes, kernel_initializer=initializer, dtype="float32", name="logits"
    )(x)
    return keras.Model(inputs, logits, name="nf_resnet")


def _conv(filters: int, size: int, **kwargs: Any) -> layers.Layer:
    """A standardized convolution; with strides 1 it keeps height and width."""
    return WeightStandardizedConv2D(
        filters, size, padding="same", kernel_initializer=normal_by_fan_in(), **kwargs
    )


def _relu(x: keras.KerasTensor, scale: float = 1.0) -> keras.KerasTensor:
    """A ReLU that keeps the variance of `x` if that is one, times a number."""
    return layers.Rescaling(_RELU_GAIN * scale)(layers.ReLU()(x))


def _shortcut(activated: keras.KerasTensor, filters: int, strides: int) -> keras.KerasTensor:
    """The shortcut of a stage's first block."""
    if strides > 1:
        activated = layers.AveragePooling2D(strides, padding="same")(activated)
    return _conv(filters, 1)(activated)


def _residual(activated: keras.KerasTensor, filters: int, strides: int) -> keras.KerasTensor:
    """What a block adds to its shortcut, before it is scaled by `alpha`."""
    x = _conv(filters // _BOTTLENECK, 1)(activated)
    x = _conv(filters // _BOTTLENECK, 3, strides=strides)(_relu(x))
    x = _conv(filters, 1)(_relu(x))
    return SkipInit(1.0)(x)
