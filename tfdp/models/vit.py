"""Vision transformers."""

from typing import Any

import keras
from keras import layers

from tfdp import _validate
from tfdp.layers import PositionEmbedding
from tfdp.models.images import image_input


def vit_small(
    *,
    input_shape: tuple[int, int, int] = (224, 224, 3),
    num_classes: int = 1000,
    patch_size: int = 16,
    dim: int = 384,
    depth: int = 12,
    heads: int = 6,
    mlp_ratio: int = 4,
    normalize: bool = False,
) -> keras.Model:
    """A vision transformer with normalization before each branch, ViT-S/16 unless told otherwise.

    | part | output shape |
    | --- | --- |
    | an image in patches, each mapped linearly (a convolution) | (batch, 196, 384) |
    | plus learned positions | (batch, 196, 384) |
    | 12 blocks: plus attention, plus a perceptron | (batch, 196, 384) |
    | normalization, mean over positions, Dense 1000 | (batch, 1000) |

    Each block adds two branches in turn: layer normalization and self-attention with 6 heads, then
    layer normalization and a perceptron with one hidden layer of `mlp_ratio * dim` units, GELU.
    There is no class token: the mean over all positions is classified, as in Beyer et al. Kernels
    and positions start from a truncated normal distribution of standard deviation 0.02, as in
    Touvron et al., biases from zero. ViT-S/16 has 22,049,896 parameters.

    Args:
        input_shape: The shape of one image, `(height, width, channels)`, with height and width
            multiples of `patch_size`. Defaults to `(224, 224, 3)`.
        num_classes: The number of classes. Defaults to `1000`.
        patch_size: The height and width of a patch. Defaults to `16`.
        dim: The number of features of each position, a multiple of `heads`. Defaults to `384`.
        depth: The number of blocks. Defaults to `12`.
        heads: The number of attention heads. Defaults to `6`.
        mlp_ratio: How many times more features the hidden layers have than `dim`. Defaults to `4`.
        normalize: Whether the model first scales its input by the channel means and standard
            deviations of ImageNet. These are published, but where ImageNet is the private data they
            are statistics of it. Needs three channels. Defaults to `False`.

    Returns:
        A model from images of shape `(batch, height, width, channels)`, float32 in [0, 1], to
        logits of shape `(batch, num_classes)`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If height or width is not a multiple of `patch_size`, `dim` not one of `heads`,
            a number or size is not positive, or `normalize` is asked of images that have not three
            channels.

    Example:
        >>> import tfdp
        >>> small = tfdp.models.vit_small(
        ...     input_shape=(32, 32, 3), num_classes=10, patch_size=4, dim=48, depth=2, heads=3)
        >>> small.output_shape
        (None, 10)

    References:
        - [Dosovitskiy et al. (2021)](https://arxiv.org/abs/2010.11929), An Image is Worth 16x16
          Words, section 3.1.
        - [Touvron et al. (2021)](https://arxiv.org/abs/2012.12877), Training data-efficient image
          transformers and distillation through attention: the size S, initial weights.
        - [Beyer et al. (2022)](https://arxiv.org/abs/2205.01580), Better plain ViT baselines for
          ImageNet-1k: the mean over positions.
    """
    num_classes = _validate.integer("num_classes", num_classes, minimum=1)
    patch_size = _validate.integer("patch_size", patch_size, minimum=1)
    dim = _validate.integer("dim", dim, minimum=1)
    depth = _validate.integer("depth", depth, minimum=1)
    heads = _validate.integer("heads", heads, minimum=1)
    mlp_ratio = _validate.integer("mlp_ratio", mlp_ratio, minimum=1)
    if dim % heads:
        raise _validate.value_error("dim", dim, f"a multiple of `heads`, {heads}")
    inputs, x = image_input(input_shape, normalize)
    if any(size % patch_size for size in x.shape[1:3]):
        raise _validate.value_error(
            "input_shape", input_shape, f"of multiples of `patch_size`, {patch_size}"
        )
    x = layers.Conv2D(dim, patch_size, strides=patch_size, kernel_initializer=_initializer())(x)
    x = layers.Reshape((-1, dim))(x)
    x = PositionEmbedding(_initializer())(x)
    for _ in range(depth):
        branch = layers.LayerNormalization(epsilon=1e-6)(x)
        attention = layers.MultiHeadAttention(
            heads, dim // heads, kernel_initializer=_initializer()
        )
        x = layers.Add()([x, attention(branch, branch)])
        branch = layers.LayerNormalization(epsilon=1e-6)(x)
        branch = _dense(mlp_ratio * dim, activation="gelu")(branch)
        x = layers.Add()([x, _dense(dim)(branch)])
    x = layers.LayerNormalization(epsilon=1e-6)(x)
    x = layers.GlobalAveragePooling1D()(x)
    logits = _dense(num_classes, dtype="float32", name="logits")(x)
    return keras.Model(inputs, logits, name="vit")


def _dense(units: int, **kwargs: Any) -> layers.Layer:
    return layers.Dense(units, kernel_initializer=_initializer(), **kwargs)


def _initializer() -> keras.initializers.Initializer:
    """The distribution of initial weights; two calls differ in their seeds."""
    return keras.initializers.TruncatedNormal(stddev=0.02)
