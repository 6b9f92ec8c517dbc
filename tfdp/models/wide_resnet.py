"""The wide residual networks of the published private results on CIFAR-10."""

from collections.abc import Callable

import keras
from keras import layers

from tfdp import _validate
from tfdp.layers import WeightStandardizedConv2D
from tfdp.models.images import image_input, normal_by_fan_in

_STEM_WIDTH = 16


def wide_resnet(
    depth: int = 16,
    width: int = 4,
    *,
    input_shape: tuple[int, int, int] = (32, 32, 3),
    num_classes: int = 10,
    groups: int = 16,
    shortcut: str = "norm_relu",
    weight_standardization: bool = False,
    normalize: bool = False,
) -> keras.Model:
    """A wide residual network with group normalization, WRN-16-4 unless told otherwise.

    | part | output shape of WRN-16-4 |
    | --- | --- |
    | Conv 16 | (batch, 32, 32, 16) |
    | 2 blocks of width 64 | (batch, 32, 32, 64) |
    | 2 blocks of width 128, the first with strides 2 | (batch, 16, 16, 128) |
    | 2 blocks of width 256, the first with strides 2 | (batch, 8, 8, 256) |
    | ReLU, norm, mean over positions, Dense 10 | (batch, 10) |

    A block of a network of depth `6 * n + 4`, of which each stage has `n`, adds ReLU, norm, Conv,
    ReLU, norm, Conv to its input. All these convolutions are 3x3. Where the block changes the
    width, the input takes a convolution 1x1 on its way, behind a norm and a ReLU of its own in the
    order that `shortcut` says. Kernels start from a normal distribution of standard deviation
    `1 / sqrt(fan_in)`, biases from zero. WRN-16-4 has 2,751,562 parameters.

    Args:
        depth: The number of layers as it is counted for these networks, 10, 16, 22, 28 and so on.
            Defaults to `16`.
        width: The factor by which the stages are wider than 16, 32 and 64. Defaults to `4`.
        input_shape: The shape of one image, `(height, width, channels)`. Defaults to that of
            CIFAR-10, `(32, 32, 3)`.
        num_classes: The number of classes. Defaults to `10`.
        groups: The groups of channels that are normalized together, a divisor of 16. Defaults to
            `16`.
        shortcut: `"norm_relu"` for norm, ReLU, Conv in the shortcuts, or `"relu_norm"` for ReLU,
            norm, Conv, as in the other branch. The first is the order that Bao and Bindschaedler
            found to be the better one, the second that of De et al. and of Sander et al. Defaults
            to `"norm_relu"`.
        weight_standardization: Whether the convolutions are `WeightStandardizedConv2D`, as in De
            et al. (Sander et al. use ordinary ones). Adds a gain for each filter, 2,256 in
            WRN-16-4. Defaults to `False`.
        normalize: Whether the model first scales its input by the channel means and standard
            deviations of ImageNet, a public data set. Needs three channels. Defaults to `False`.

    Returns:
        A model from images of shape `(batch, height, width, channels)`, float32 in [0, 1], to
        logits of shape `(batch, num_classes)`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `depth` is not 6 n + 4, `groups` does not divide 16, `shortcut` is unknown, a
            number or size is not positive, or `normalize` is asked of images that have not three
            channels.

    Example:
        >>> import tfdp
        >>> tfdp.models.wide_resnet().count_params()
        2751562

    References:
        - [Zagoruyko and Komodakis (2016)](https://arxiv.org/abs/1605.07146), Wide Residual
          Networks, section 2.
        - [De et al. (2022)](https://arxiv.org/abs/2204.13650), Unlocking High-Accuracy
          Differentially Private Image Classification through Scale.
        - [Sander et al. (2023)](https://arxiv.org/abs/2210.03403), TAN Without a Burn: Scaling Laws
          of DP-SGD.
        - [Bao and Bindschaedler (2024)](https://arxiv.org/abs/2508.15141), Towards Reliable and
          Generalizable Differentially Private Machine Learning: the order in the shortcuts.
    """
    depth = _validate.integer("depth", depth, minimum=10)
    if (depth - 4) % 6:
        raise _validate.value_error("depth", depth, "6 n + 4 for a whole number n")
    width = _validate.integer("width", width, minimum=1)
    num_classes = _validate.integer("num_classes", num_classes, minimum=1)
    groups = _validate.integer("groups", groups, minimum=1)
    if _STEM_WIDTH % groups:
        raise _validate.value_error("groups", groups, f"a divisor of {_STEM_WIDTH}")
    shortcut = _validate.one_of("shortcut", shortcut, ("norm_relu", "relu_norm"))
    standardized = _validate.boolean("weight_standardization", weight_standardization)
    convolution = WeightStandardizedConv2D if standardized else layers.Conv2D

    def conv(filters: int, size: int, strides: int = 1) -> layers.Layer:
        return convolution(
            filters,
            size,
            strides=strides,
            padding="same",
            kernel_initializer=normal_by_fan_in(),
        )

    def norm() -> layers.Layer:
        return layers.GroupNormalization(groups, epsilon=1e-5)

    inputs, x = image_input(input_shape, normalize)
    x = conv(_STEM_WIDTH, 3)(x)
    for stage in range(3):
        filters = _STEM_WIDTH * width * 2**stage
        for block in range((depth - 4) // 6):
            strides = 2 if stage and not block else 1
            x = _block(x, filters, strides, shortcut, conv, norm)
    x = norm()(layers.ReLU()(x))
    x = layers.GlobalAveragePooling2D()(x)
    logits = layers.Dense(
        num_classes, kernel_initializer=normal_by_fan_in(), dtype="float32", name="logits"
    )(x)
    return keras.Model(inputs, logits, name=f"wide_resnet_{depth}_{width}")


def _block(
    x: keras.KerasTensor,
    filters: int,
    strides: int,
    shortcut: str,
    conv: Callable[..., layers.Layer],
    norm: Callable[[], layers.Layer],
) -> keras.KerasTensor:
    """Adds two convolutions of `x` to it."""
    rectified = layers.ReLU()(x)
    residual = conv(filters, 3, strides)(norm()(rectified))
    residual = conv(filters, 3)(norm()(layers.ReLU()(residual)))
    if x.shape[-1] != filters:
        x = norm()(rectified) if shortcut == "relu_norm" else layers.ReLU()(norm()(x))
        x = conv(filters, 1, strides)(x)
    return layers.Add()([x, residual])
