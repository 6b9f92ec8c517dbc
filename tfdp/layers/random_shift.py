"""Random crops of padded images, as image classifiers are trained with."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfdp import _validate


@keras.saving.register_keras_serializable(package="tfdp")
class RandomShift(keras.layers.Layer):
    """Pads images by reflection and cuts out a window of their size, a random one for each image.

    Keras's own `RandomCrop` takes one window for a whole batch, which augmentation multiplicity
    cannot use.

    Args:
        padding: Pixels on each side, and so the largest shift. Defaults to 4.
        seed: Of the windows. Defaults to ``None``: another one each time.
        **kwargs: Of `keras.layers.Layer`.

    Call arguments:
        images: Shape ``(batch, height, width, channels)``.
        training: Without it images are returned as they are. Defaults to ``False``.

    Raises:
        TypeError: If `padding` is no integer.
        ValueError: If it is negative.

    Example:
        >>> import numpy as np, tfdp
        >>> tfdp.layers.RandomShift(2)(np.zeros((3, 8, 8, 1), "float32"), training=True).shape
        TensorShape([3, 8, 8, 1])

    References:
        Sander, Stock, Sablayrolles 2023, "TAN Without a Burn", arXiv:2210.03403: as their code for
        CIFAR-10 augments.
    """

    def __init__(self, padding: int = 4, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.padding = _validate.integer("padding", padding, minimum=0, maximum=2**30 - 1)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, images, training=False):
        if not training or self.padding == 0:
            return images
        by = self.padding
        padded = tf.pad(images, [[0, 0], [by, by], [by, by], [0, 0]], "REFLECT")
        for axis in (1, 2):
            start = keras.random.randint(
                (tf.shape(images)[0], 1), 0, 2 * by + 1, dtype="int32", seed=self.seed_generator
            )
            seen = start + tf.range(tf.shape(images)[axis])
            padded = tf.gather(padded, seen, axis=axis, batch_dims=1)
        return tf.ensure_shape(padded, images.shape)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self) -> dict:
        return {**super().get_config(), "padding": self.padding, "seed": self.seed}
