"""A small denoising network with attention, for images of 28 or 32 pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from tfdp import _validate

#: Channels at the full size of an image.
PIXEL_WIDTH = 16


def attention_unet(
    image_shape: tuple[int, int, int] = (28, 28, 1),
    num_classes: int = 10,
    *,
    widths: Sequence[int] = (32, 64),
    attention: Sequence[bool] = (False, True),
    blocks: int = 1,
    heads: int = 4,
    class_tokens: int = 4,
    patch_size: int = 2,
) -> keras.Model:
    """A U-Net that predicts noise in images from the images, the time step and the class.

    It has the parts of Stable Diffusion's: residual blocks that are told the time, self-attention
    between positions, and cross-attention of positions to a few tokens, here learnt for each
    class in place of a text. It is small enough to be trained on two CPU cores.

    | part | output shape |
    | --- | --- |
    | convolution with the stride of a patch | (batch, 14, 14, 32) |
    | level 0 down: residual block | (batch, 14, 14, 32) |
    | convolution of stride 2; level 1 down: residual block, attention | (batch, 7, 7, 64) |
    | middle: residual block, attention, residual block | (batch, 7, 7, 64) |
    | level 1 up: joins level 1 down; residual block, attention | (batch, 7, 7, 64) |
    | enlarged; level 0 up: joins level 0 down; residual block | (batch, 14, 14, 32) |
    | normalization, transposed convolution with the stride of a patch | (batch, 28, 28, 16) |
    | joins the noisy images; two convolutions | (batch, 28, 28, 1) |

    Each attention is two `keras.layers.MultiHeadAttention`, to positions and to class tokens, with
    four kernels each: query, key, value and output, which are EinsumDense layers. Thus the defaults
    have 24 such matrices, ``blocks=2`` has 40. Names of layers tell where they are:
    ``down1_0_cross_attention``. Activations are SiLU, normalization is by groups of channels within
    one example, and the last kernel starts from zero. `tfdp.clipping` has a rule for every layer.

    Args:
        image_shape: Shape of one image, ``(height, width, channels)``. Defaults to
            ``(28, 28, 1)``.
        num_classes: Number of classes. The label ``num_classes`` means "no class". Defaults to 10.
        widths: Channels at each level; from level to level height and width halve. Multiples of
            ``heads`` where there is attention. Defaults to ``(32, 64)``.
        attention: At which levels there is attention; the middle has it always. Its cost grows
            with the square of the number of positions. Defaults to ``(False, True)``.
        blocks: Residual blocks at each level, on either side. Defaults to 1.
        heads: Attention heads. Defaults to 4.
        class_tokens: Tokens of a class, at least 2: attention to one token is constant. Defaults
            to 4.
        patch_size: Height and width of the patches that positions of level 0 stand for. Defaults
            to 2.

    Returns:
        A functional model from a list of noisy images ``(batch, height, width, channels)``, time
        steps ``(batch,)`` and labels ``(batch,)`` to predictions of the images' shape, float32.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a number is out of range, there are not as many ``attention`` as ``widths``,
            or height or width cannot be halved as often as there are levels.

    Example:
        >>> import tfdp
        >>> unet = tfdp.synthesis.attention_unet(widths=(16, 32))
        >>> [tuple(t.shape) for t in unet.inputs], unet.output_shape
        ([(None, 28, 28, 1), (None,), (None,)], (None, 28, 28, 1))

    References:
        - Ho et al. 2020, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239, appendix B:
          the U-Net and its embedding of time.
        - Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models",
          arXiv:2112.10752, section 3.3: cross-attention to what images are conditioned on.
    """
    image_shape = _validate.shape("image_shape", image_shape)
    if len(image_shape) != 3:
        raise _validate.value_error("image_shape", image_shape, "(height, width, channels)")
    num_classes = _validate.integer("num_classes", num_classes, minimum=1)
    widths = _validate.shape("widths", widths)
    if not widths:
        raise _validate.value_error("widths", widths, "one number or more")
    if not isinstance(attention, tuple | list):
        raise _validate.type_error("attention", attention, "a tuple of True and False")
    attention = [_validate.boolean("attention", value) for value in attention]
    if len(attention) != len(widths):
        raise _validate.value_error("attention", attention, f"one for each of widths={widths}")
    blocks = _validate.integer("blocks", blocks, minimum=1)
    heads = _validate.integer("heads", heads, minimum=1)
    class_tokens = _validate.integer("class_tokens", class_tokens, minimum=2)
    patch_size = _validate.integer("patch_size", patch_size, minimum=1)
    smallest = patch_size * 2 ** (len(widths) - 1)
    if any(size % smallest for size in image_shape[:2]):
        raise ValueError(
            "Height and width in `image_shape` must be multiples of "
            f"patch_size * 2 ** (len(widths) - 1) = {smallest}. "
            f"Received: image_shape={image_shape!r}"
        )
    attending = [w for w, a in zip(widths, [*attention[:-1], True], strict=True) if a]
    if any(width % heads for width in attending):
        raise _validate.value_error(
            "widths", widths, f"multiples of heads={heads} where there is attention"
        )

    images = keras.Input(image_shape, name="images")
    time = keras.Input((), name="time")
    labels = keras.Input((), dtype="int32", name="labels")
    dim = 2 * widths[-1]
    tokens = layers.Embedding(num_classes + 1, class_tokens * widths[-1], name="class_embedding")
    tokens = tokens(labels)
    condition = TimeEmbedding(widths[0], name="time_embedding")(time)
    condition = layers.Dense(dim, activation="silu", name="time_hidden")(condition)
    condition = layers.Dense(dim, name="time_output")(condition)
    of_class = layers.Dense(dim, name="class_output")(tokens)
    condition = layers.Add(name="condition_sum")([condition, of_class])
    condition = layers.Activation("silu", name="condition")(condition)
    tokens = layers.Reshape((class_tokens, widths[-1]), name="class_tokens")(tokens)

    def block(x, name: str, width: int, attend: bool):
        x = _residual_block(x, condition, width, name)
        return _attention_block(x, tokens, heads, name) if attend else x

    kernel = max(3, 2 * patch_size)
    x = layers.Conv2D(widths[0], kernel, strides=patch_size, padding="same", name="patches")(images)
    skips = []
    for level, (width, attend) in enumerate(zip(widths, attention, strict=True)):
        if level:
            x = layers.Conv2D(width, 3, strides=2, padding="same", name=f"down{level}_smaller")(x)
        for k in range(blocks):
            x = block(x, f"down{level}_{k}", width, attend)
            skips.append(x)
    x = block(x, "middle_0", widths[-1], True)
    x = block(x, "middle_1", widths[-1], False)
    for level in reversed(range(len(widths))):
        for k in range(blocks):
            x = layers.Concatenate(name=f"up{level}_{k}_join")([x, skips.pop()])
            x = block(x, f"up{level}_{k}", widths[level], attention[level])
        if level:
            x = layers.Conv2D(widths[level - 1], 1, name=f"up{level}_narrower")(x)
            x = layers.UpSampling2D(name=f"up{level}_larger")(x)
    x = _normalized(x, "pixels")
    x = layers.Conv2DTranspose(
        PIXEL_WIDTH, kernel, strides=patch_size, padding="same", name="pixels"
    )(x)
    # The noise of single pixels does not pass through patches well.
    x = layers.Concatenate(name="pixels_join")([x, images])
    x = layers.Conv2D(PIXEL_WIDTH, 3, padding="same", activation="silu", name="pixels_hidden")(x)
    x = layers.Conv2D(
        image_shape[-1],
        3,
        padding="same",
        kernel_initializer="zeros",
        dtype="float32",
        name="output",
    )(x)
    return keras.Model([images, time, labels], x, name="attention_unet")


@keras.saving.register_keras_serializable(package="tfdp")
class TimeEmbedding(layers.Layer):
    """Sines and cosines of a time step, of wavelengths from ``2 pi`` to about ``20,000 pi``.

    Args:
        dim: Number of features, even.
        **kwargs: Of `keras.layers.Layer`.

    Call arguments:
        time: Time steps, shape ``(batch,)``.

    Raises:
        TypeError: If `dim` is no integer.
        ValueError: If `dim` is not a positive even number.

    References:
        - Ho et al. 2020, arXiv:2006.11239, appendix B, after Vaswani et al. 2017,
          arXiv:1706.03762, section 3.5.
    """

    def __init__(self, dim: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.dim = _validate.integer("dim", dim, minimum=2)
        if self.dim % 2:
            raise _validate.value_error("dim", dim, "even")

    def call(self, time):
        half = self.dim // 2
        rates = ops.exp(ops.arange(half, dtype="float32") * (-math.log(10_000.0) / half))
        angles = ops.cast(time, "float32")[:, None] * rates
        return ops.cast(ops.concatenate([ops.sin(angles), ops.cos(angles)], -1), self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.dim)

    def get_config(self) -> dict:
        return {**super().get_config(), "dim": self.dim}


def _group_normalization(x, name: str) -> layers.Layer:
    # At most 8 groups, of 4 channels or more: a group of one channel loses the shift by time.
    groups = max(1, math.gcd(32, x.shape[-1]) // 4)
    return layers.GroupNormalization(groups, name=f"{name}_normalization")


def _normalized(x, name: str):
    x = _group_normalization(x, name)(x)
    return layers.Activation("silu", name=f"{name}_activation")(x)


def _residual_block(x, condition, width: int, name: str):
    branch = _normalized(x, f"{name}_first")
    branch = layers.Conv2D(width, 3, padding="same", name=f"{name}_first")(branch)
    shift = layers.Dense(width, name=f"{name}_condition")(condition)
    shift = layers.Reshape((1, 1, width), name=f"{name}_shift")(shift)
    branch = layers.Add(name=f"{name}_conditioned")([branch, shift])
    branch = _normalized(branch, f"{name}_second")
    branch = layers.Conv2D(
        width, 3, padding="same", kernel_initializer="zeros", name=f"{name}_second"
    )(branch)
    if x.shape[-1] != width:
        x = layers.Conv2D(width, 1, name=f"{name}_skip")(x)
    return layers.Add(name=f"{name}_sum")([x, branch])


def _attention_block(x, tokens, heads: int, name: str):
    height, width, channels = x.shape[1:]
    x = layers.Reshape((height * width, channels), name=f"{name}_positions")(x)
    for kind in ("self", "cross"):
        part = f"{name}_{kind}_attention"
        branch = _group_normalization(x, part)(x)
        attention = layers.MultiHeadAttention(heads, channels // heads, name=part)
        branch = attention(branch, branch if kind == "self" else tokens)
        x = layers.Add(name=f"{part}_sum")([x, branch])
    return layers.Reshape((height, width, channels), name=f"{name}_image")(x)
