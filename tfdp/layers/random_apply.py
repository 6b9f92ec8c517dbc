"""An augmentation that only some images get."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfdp import _validate


@keras.saving.register_keras_serializable(package="tfdp")
class RandomApply(keras.layers.Layer):
    """Augments each image with some probability, independently of the others.

    Unlike the layer of this name in keras-cv it works inside a training step that is compiled
    without AutoGraph, as that of a private model is. All images are augmented, and some taken.

    Args:
        layer: The augmentation, of images of the shape that it returns.
        rate: Probability with which an image is augmented, in [0, 1]. Defaults to 0.5.
        seed: Of the choice. Defaults to ``None``: another one each time.
        **kwargs: Of `keras.layers.Layer`.

    Call arguments:
        images: Shape ``(batch, ...)``.
        training: Without it images are returned as they are. Defaults to ``False``.

    Raises:
        TypeError: If `layer` is no Keras layer or `rate` no number.
        ValueError: If `rate` is outside [0, 1].

    Example:
        >>> import keras, tfdp
        >>> jitter = tfdp.layers.RandomApply(keras.layers.RandomBrightness(0.4), rate=0.3)
    """

    def __init__(
        self, layer: keras.layers.Layer, rate: float = 0.5, seed: int | None = None, **kwargs
    ):
        super().__init__(**kwargs)
        if not isinstance(layer, keras.layers.Layer):
            raise _validate.type_error("layer", layer, "a Keras layer")
        self.layer = layer
        self.rate = _validate.probability("rate", rate)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed)

    def build(self, input_shape):
        if not self.layer.built:
            self.layer.build(input_shape)

    def call(self, images, training=False):
        if not training or self.rate == 0:
            return images
        shape = [tf.shape(images)[0], *[1] * (images.shape.rank - 1)]
        chosen = keras.random.uniform(shape, seed=self.seed_generator) < self.rate
        augmented = self.layer(images, training=True)
        return tf.where(chosen, tf.cast(augmented, images.dtype), images)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self) -> dict:
        layer = keras.saving.serialize_keras_object(self.layer)
        return {**super().get_config(), "layer": layer, "rate": self.rate, "seed": self.seed}

    @classmethod
    def from_config(cls, config: dict) -> RandomApply:
        layer = keras.saving.deserialize_keras_object(config["layer"])
        return cls(**{**config, "layer": layer})
