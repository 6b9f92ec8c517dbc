"""The wavelet scattering transform: features of images that are not learned."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from tfdp import _validate


@keras.saving.register_keras_serializable(package="tfdp")
class Scattering2D(keras.layers.Layer):
    """The wavelet scattering transform of images, by kymatio.

    An image is convolved with wavelets of `J` scales and `L` angles, the modulus is taken, and all
    is averaged over windows of `2 ** J` pixels; the second order does so once more with the moduli.
    Nothing is learned, so the features cost no privacy, and a linear model on them does better
    under DP-SGD than a network that has to learn its own. No example's features depend on another.

    Of each channel there are `1 + L * J` features up to the first order, and
    `L**2 * J * (J - 1) / 2` more of the second: 81 by default.

    Args:
        J: The number of scales, at least 1; averages are over `2 ** J` pixels. Defaults to `2`.
        L: The number of angles, at least 1. Defaults to `8`.
        max_order: 1, or 2 for moduli of moduli as well. Defaults to `2`.
        **kwargs: The further arguments of `keras.layers.Layer`.

    Raises:
        TypeError: If a number is not an integer.
        ValueError: If a number is out of range, or an image does not have more than `2 ** J`
            pixels in height and width.
        ImportError: If kymatio is not installed: `pip install kymatio`.

    Input shape:
        `(batch, height, width, channels)`, with height and width known.

    Output shape:
        `(batch, height // 2**J, width // 2**J, channels * features)`; the features of the first
        channel come first. They are worked out in float32.

    Example:
        >>> import numpy as np, tfdp
        >>> layer = tfdp.layers.Scattering2D()
        >>> layer(np.zeros((1, 28, 28, 1), "float32")).shape
        TensorShape([1, 7, 7, 81])

    References:
        - [Bruna and Mallat (2013)](https://arxiv.org/abs/1203.1513), Invariant Scattering
          Convolution Networks.
        - [Tramer and Boneh (2021)](https://arxiv.org/abs/2011.11660), Differentially Private
          Learning Needs Better Features (or Much More Data), section 3.
        - [Andreux et al. (2020)](https://arxiv.org/abs/1812.11214), Kymatio: Scattering Transforms
          in Python.
    """

    def __init__(self, J: int = 2, L: int = 8, *, max_order: int = 2, **kwargs: Any) -> None:
        """Initialises the layer."""
        super().__init__(**kwargs)
        self.J = _validate.integer("J", J, minimum=1)
        self.L = _validate.integer("L", L, minimum=1)
        self.max_order = _validate.one_of("max_order", max_order, (1, 2))

    def build(self, input_shape: Any) -> None:
        """Makes the wavelets for the size of the images."""
        try:
            from kymatio.scattering2d.frontend.tensorflow_frontend import ScatteringTensorFlow2D
        except ImportError as error:
            raise ImportError("Scattering2D needs kymatio: pip install kymatio") from error
        size = tuple(input_shape[1:3])
        if len(input_shape) != 4 or None in size or min(size) <= 2**self.J:
            raise ValueError(
                f"Scattering2D with J={self.J} takes images of known size, of more than "
                f"{2**self.J} pixels in height and width. "
                f"Received: input_shape={tuple(input_shape)}"
            )
        self._scattering = ScatteringTensorFlow2D(self.J, size, self.L, self.max_order)

    def call(self, inputs: Any) -> Any:
        """Returns the features of `inputs`."""
        count = tf.shape(inputs)[0]
        channels_first = tf.transpose(tf.cast(inputs, tf.float32), [0, 3, 1, 2])
        # Kymatio cannot pad what is empty: no images become one of zeros.
        one_if_none = tf.cast(tf.equal(count, 0), tf.int32)
        channels_first = tf.pad(channels_first, [[0, one_if_none], [0, 0], [0, 0], [0, 0]])
        features = self._scattering.scattering(channels_first)[:count]
        _, height, width, last = self.compute_output_shape(inputs.shape)
        features = tf.reshape(features, [-1, last, height, width])
        return ops.cast(tf.transpose(features, [0, 2, 3, 1]), self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Returns the shape of the features of images of `input_shape`."""
        batch, height, width, channels = input_shape
        features = 1 + self.L * self.J
        if self.max_order == 2:
            features += self.L**2 * self.J * (self.J - 1) // 2
        return batch, height // 2**self.J, width // 2**self.J, channels * features

    def get_config(self) -> dict[str, Any]:
        """Returns what `from_config` needs to make an equal layer."""
        return {**super().get_config(), "J": self.J, "L": self.L, "max_order": self.max_order}
