"""Features of patches, by filters from images of a random process: nothing is learned from data."""

import functools
import itertools
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from scipy import ndimage

from tfdp import _validate

# Images of the random process, and what they show.
_IMAGES, _SIZE, _LEAVES = 100, 32, 400
_LEAST_RADIUS, _LARGEST_RADIUS = 1.0, 24.0
_MARGIN = 16  # of pixels around the image, where centres of leaves may lie as well
_COLOUR_DEVIATION = 0.12  # of a channel from the leaf's grey
_SHADING = 0.01  # of a leaf, a pixel
_BLUR = 0.7  # standard deviation, in pixels
# Added to the variance of a patch, so that what is nearly flat is hardly amplified.
_CONTRAST_EPSILON = 10 / 255**2
_LEAST_CONTRAST = 0.5  # of a normalized patch that may become a filter
_PATCHES = 50_000


@keras.saving.register_keras_serializable(package="tfdp")
class PatchFeatures2D(keras.layers.Layer):
    """How much of each of many random patches there is in the parts of an image.

    Every patch of the image is brought to mean 0 and contrast 1, whitened, and compared with each
    filter `f`: its features are `max(0, <f, patch> - threshold)` and `max(0, -<f, patch> -
    threshold)`. They are averaged over a grid of `cells` by `cells` parts of the image.

    The filters are whitened patches of *dead leaves*, images of opaque shapes that cover each other
    at random and have the statistics of natural images: edges, flat parts and corners of all
    sizes. Neither the filters nor the whitening come from data, private or public, so the features
    cost no privacy. No example's features depend on another.

    Args:
        filters: The number of filters, at least 1; there are two features of each. Defaults to
            `400`.
        patch_size: The height and width of a patch, from 2 to 16. Defaults to `6`.
        threshold: What a comparison must exceed to count, not negative. Defaults to `1.0`.
        cells: The parts of the image, in height and in width, at least 1. Defaults to `2`.
        whitening_epsilon: What is added to the variances that whitening divides by, positive.
            Defaults to `0.1`.
        mirrored: Whether features are the mean of those of the image and of its mirror image, which
            takes twice as long. Defaults to `False`.
        seed: A non-negative integer that the filters are drawn from. Defaults to `0`.
        **kwargs: The further arguments of `keras.layers.Layer`.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If one is out of range, or images are smaller than a patch or have fewer
            positions of a patch than cells.

    Input shape:
        `(batch, height, width, channels)`, all but the batch known; values from 0 to 1.

    Output shape:
        `(batch, cells, cells, 2 * filters)`. They are worked out in float32.

    Example:
        >>> import numpy as np, tfdp
        >>> layer = tfdp.layers.PatchFeatures2D(filters=8)
        >>> layer(np.zeros((1, 28, 28, 1), "float32")).shape
        TensorShape([1, 2, 2, 16])

    References:
        - [Coates and Ng (2011)](https://icml.cc/2011/papers/485_icmlpaper.pdf), The Importance of
          Encoding Versus Training with Sparse Coding and Vector Quantization: patches, threshold
          and cells; their filters are patches of the data.
        - [Lee, Mumford and Huang (2001)](https://doi.org/10.1023/A:1011109015675), Occlusion
          Models for Natural Images: dead leaves.
        - [Tang, Panda, Sehwag and Mittal (2023)](https://arxiv.org/abs/2306.06076), Differentially
          Private Image Classification by Learning Priors from Random Processes.
    """

    def __init__(
        self,
        filters: int = 400,
        patch_size: int = 6,
        *,
        threshold: float = 1.0,
        cells: int = 2,
        whitening_epsilon: float = 0.1,
        mirrored: bool = False,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        """Initialises the layer."""
        super().__init__(**kwargs)
        self.filters = _validate.integer("filters", filters, minimum=1)
        self.patch_size = _validate.integer("patch_size", patch_size, minimum=2, maximum=_SIZE // 2)
        self.threshold = _validate.non_negative("threshold", threshold)
        self.cells = _validate.integer("cells", cells, minimum=1)
        self.whitening_epsilon = _validate.positive("whitening_epsilon", whitening_epsilon)
        self.mirrored = _validate.boolean("mirrored", mirrored)
        self.seed = _validate.integer("seed", seed, minimum=0)

    def build(self, input_shape: Any) -> None:
        """Draws the filters, which are not trained."""
        known = len(input_shape) == 4 and None not in tuple(input_shape)[1:]
        least = self.patch_size + self.cells - 1
        if not known or min(input_shape[1:3]) < least:
            raise ValueError(
                f"PatchFeatures2D with patch_size={self.patch_size} and cells={self.cells} takes "
                f"images of known shape, of at least {least} pixels in height and width. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        channels = input_shape[-1]
        kernel = _kernel(channels, self.filters, self.patch_size, self.whitening_epsilon, self.seed)
        self.kernel = self.add_weight(
            name="kernel",
            shape=kernel.shape,
            initializer=keras.initializers.Constant(kernel),
            trainable=False,
            dtype="float32",
            autocast=False,
        )

    def call(self, inputs: Any) -> Any:
        """Returns the features of `inputs`."""
        images = ops.cast(inputs, "float32")
        # TensorFlow's convolution of no images has a wrong shape: they become one of zeros.
        count = tf.shape(images)[0]
        one_if_none = tf.cast(tf.equal(count, 0), tf.int32)
        images = tf.pad(images, [[0, one_if_none], [0, 0], [0, 0], [0, 0]])
        features = self._features(images)
        if self.mirrored:
            features = (features + self._features(ops.flip(images, axis=2))) / 2
        return ops.cast(features[:count], self.compute_dtype)

    def _features(self, images: Any) -> Any:
        mean, mean_square = (
            ops.mean(
                ops.average_pool(values, self.patch_size, strides=1, padding="valid"),
                axis=-1,
                keepdims=True,
            )
            for values in (images, ops.square(images))
        )
        variance = ops.maximum(mean_square - ops.square(mean), 0.0)
        compared = ops.conv(images, self.kernel, padding="valid")
        compared = compared / ops.sqrt(variance + _CONTRAST_EPSILON)
        sides = (ops.relu(sign * compared - self.threshold) for sign in (1, -1))
        return ops.concatenate([self._averages(side) for side in sides], axis=-1)

    def _averages(self, values: Any) -> Any:
        """Means over the cells, which differ by one position at most."""
        rows, columns = (
            [round(values.shape[axis] * part / self.cells) for part in range(self.cells + 1)]
            for axis in (1, 2)
        )
        means = [
            ops.mean(values[:, top:bottom, left:right], axis=(1, 2))
            for top, bottom in itertools.pairwise(rows)
            for left, right in itertools.pairwise(columns)
        ]
        return ops.reshape(ops.stack(means, 1), (-1, self.cells, self.cells, self.filters))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Returns the shape of the features of images of `input_shape`."""
        return input_shape[0], self.cells, self.cells, 2 * self.filters

    def get_config(self) -> dict[str, Any]:
        """Returns what `from_config` needs to make an equal layer."""
        return {
            **super().get_config(),
            "filters": self.filters,
            "patch_size": self.patch_size,
            "threshold": self.threshold,
            "cells": self.cells,
            "whitening_epsilon": self.whitening_epsilon,
            "mirrored": self.mirrored,
            "seed": self.seed,
        }


@functools.lru_cache(maxsize=8)
def _kernel(
    channels: int, filters: int, patch_size: int, whitening_epsilon: float, seed: int
) -> np.ndarray:
    """Filters that take the mean off a patch, whiten it and compare it at once."""
    rng = np.random.default_rng(seed)
    patches = _patches(rng, _dead_leaves(rng, channels), patch_size)
    patches -= patches.mean(1, keepdims=True)
    patches /= np.sqrt(patches.var(1, keepdims=True) + _CONTRAST_EPSILON)
    variances, directions = np.linalg.eigh(patches.T @ patches / len(patches))
    scales = (np.maximum(variances, 0) + whitening_epsilon) ** -0.5
    whitening = (directions * scales) @ directions.T
    clear = patches[patches.std(1) > _LEAST_CONTRAST]
    chosen = clear[rng.choice(len(clear), filters, replace=filters > len(clear))] @ whitening
    chosen /= np.linalg.norm(chosen, axis=1, keepdims=True)
    kernel = chosen @ whitening
    kernel -= kernel.mean(1, keepdims=True)
    shape = (filters, patch_size, patch_size, channels)
    return kernel.reshape(shape).transpose(1, 2, 3, 0).astype("float32")


def _dead_leaves(rng: np.random.Generator, channels: int) -> np.ndarray:
    """Images of shape (images, size, size, channels): ellipses and rectangles, the last on top.

    The ground is black. The density of radii falls with their third power, which makes images look
    alike at all scales.
    """
    images = np.zeros((_IMAGES, _SIZE, _SIZE, channels), "float32")
    y, x = np.mgrid[:_SIZE, :_SIZE].astype("float32")

    def draw(low: float, high: float, *shape: int) -> np.ndarray:
        return rng.uniform(low, high, (_IMAGES, *(shape or (1, 1)))).astype("float32")

    for _ in range(_LEAVES):
        share = draw(0, 1)
        radius = ((1 - share) * _LEAST_RADIUS**-2 + share * _LARGEST_RADIUS**-2) ** -0.5
        right = x - draw(-_MARGIN, _SIZE + _MARGIN)
        down = y - draw(-_MARGIN, _SIZE + _MARGIN)
        angle, narrowness = draw(0, np.pi), draw(0.4, 1)
        along = np.cos(angle) * right + np.sin(angle) * down
        across = (np.cos(angle) * down - np.sin(angle) * right) / narrowness
        ellipse = np.hypot(along, across)
        rectangle = np.maximum(np.abs(along), np.abs(across))
        outside = np.where(draw(0, 1) < 0.5, ellipse, rectangle) - radius
        cover = np.clip(0.5 - outside, 0, 1)[..., None]
        colour = draw(0, 1, 1, 1, 1)
        if channels > 1:
            deviation = _COLOUR_DEVIATION * rng.standard_normal((_IMAGES, 1, 1, channels))
            colour = np.clip(colour + deviation.astype("float32"), 0, 1)
        slope = _SHADING * rng.standard_normal((2, _IMAGES, 1, 1)).astype("float32")
        shade = (slope[0] * right + slope[1] * down)[..., None]
        images += cover * (colour + shade - images)
    return np.clip(ndimage.gaussian_filter(images, (0, _BLUR, _BLUR, 0), mode="nearest"), 0, 1)


def _patches(rng: np.random.Generator, images: np.ndarray, size: int) -> np.ndarray:
    """Patches at random positions of random images, one a row, in float64."""
    which = rng.integers(len(images), size=_PATCHES)
    top, left = rng.integers(images.shape[1] - size + 1, size=(2, _PATCHES))
    rows, columns = (first[:, None] + np.arange(size) for first in (top, left))
    found = images[which[:, None, None], rows[:, :, None], columns[:, None, :]]
    return found.reshape(_PATCHES, -1).astype("float64")
