"""A trainable scalar at the end of a residual branch."""

from typing import Any

import keras
from keras import ops

from tfdp import _validate


@keras.saving.register_keras_serializable(package="tfdp")
class SkipInit(keras.layers.Layer):
    """Multiplies its input by one trainable number.

    At the end of a residual branch it lets the network start near the identity, as far as
    `initial_value` says, where there is no normalization layer whose scale could do so.

    Args:
        initial_value: The number to start from. Defaults to `0.0`, as in its paper: the branch
            adds nothing at first. `nf_resnet50` starts from `1.0`.
        **kwargs: The arguments of `keras.layers.Layer`, such as `name` and `dtype`.

    Raises:
        TypeError: If `initial_value` is not a number.
        ValueError: If `initial_value` is not finite.

    Input shape:
        Any; given as `(batch, ...)`.

    Output shape:
        The input shape.

    Example:
        >>> import numpy as np, tfdp
        >>> np.array(tfdp.layers.SkipInit(0.5)(np.array([[2.0, 4.0]])))
        array([[1., 2.]], dtype=float32)

    References:
        - [De and Smith (2020)](https://arxiv.org/abs/2002.10444), Batch Normalization Biases
          Residual Blocks Towards the Identity Function in Deep Networks.
    """

    def __init__(self, initial_value: float = 0.0, **kwargs: Any) -> None:
        """Initialises the layer."""
        super().__init__(**kwargs)
        self.initial_value = _validate.real("initial_value", initial_value)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        """Creates the scalar."""
        del input_shape
        self.multiplier = self.add_weight(
            name="multiplier",
            shape=(),
            initializer=keras.initializers.Constant(self.initial_value),
        )

    def call(self, inputs: Any) -> Any:
        """Multiplies `inputs`."""
        return ops.multiply(inputs, self.multiplier)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns `input_shape`: the layer works element by element."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns what `from_config` needs to make an equal layer."""
        return {**super().get_config(), "initial_value": self.initial_value}
