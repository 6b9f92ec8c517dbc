"""Learned positions."""

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="tfdp")
class PositionEmbedding(keras.layers.Layer):
    """Adds to each position of a sequence an embedding of that position, which is learned.

    The length of the sequence must be known when the layer is built.

    Args:
        initializer: The initializer of the embeddings, a Keras initializer or its name. Defaults
            to `"truncated_normal"`, of standard deviation 0.05 in Keras.
        **kwargs: The arguments of `keras.layers.Layer`, such as `name` and `dtype`.

    Raises:
        ValueError: If Keras does not know the `initializer`, or if the layer is built for
            sequences of unknown length.

    Input shape:
        `(batch, length, features)`.

    Output shape:
        The input shape.

    Example:
        >>> import numpy as np, tfdp
        >>> layer = tfdp.layers.PositionEmbedding()
        >>> layer(np.zeros((2, 9, 4), "float32")).shape, layer.count_params()
        (TensorShape([2, 9, 4]), 36)

    References:
        - [Dosovitskiy et al. (2021)](https://arxiv.org/abs/2010.11929), An Image is Worth 16x16
          Words, section 3.1.
    """

    def __init__(self, initializer: Any = "truncated_normal", **kwargs: Any) -> None:
        """Initialises the layer."""
        super().__init__(**kwargs)
        self.initializer = keras.initializers.get(initializer)
        if self.initializer is None:
            raise ValueError(
                "`initializer` must be a Keras initializer or its name. "
                f"Received: initializer={initializer!r}"
            )
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        """Creates an embedding for each position."""
        if len(input_shape) != 3 or None in input_shape[1:]:
            raise ValueError(
                "PositionEmbedding needs inputs (batch, length, features) of known length and "
                f"features. Received: input_shape={input_shape}"
            )
        self.embeddings = self.add_weight(
            name="embeddings", shape=tuple(input_shape[1:]), initializer=self.initializer
        )

    def call(self, inputs: Any) -> Any:
        """Adds the embeddings to `inputs`."""
        return ops.add(inputs, self.embeddings)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns `input_shape`: every position has its embedding added."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns what `from_config` needs to make an equal layer."""
        initializer = keras.initializers.serialize(self.initializer)
        return {**super().get_config(), "initializer": initializer}
