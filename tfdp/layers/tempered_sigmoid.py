"""Tempered sigmoids: bounded activations, of which tanh is one."""

from typing import Any

import keras
from keras import ops

from tfdp import _validate


@keras.saving.register_keras_serializable(package="tfdp")
def tempered_sigmoid(
    x: Any, scale: float = 2.0, temperature: float = 2.0, offset: float = 1.0
) -> Any:
    """Computes `scale * sigmoid(temperature * x) - offset`, element by element.

    `temperature` multiplies `x`: a larger one makes the function steeper. Its values lie between
    `-offset` and `scale - offset`, and its slope is largest at zero, `scale * temperature / 4`.
    The defaults are exactly `tanh`.

    Args:
        x: A tensor of floating-point numbers, of any shape.
        scale: A positive number, the distance between the two bounds. Defaults to `2.0`.
        temperature: A positive number that multiplies `x`. Defaults to `2.0`.
        offset: A number, subtracted at the end. Defaults to `1.0`.

    Returns:
        A tensor of the shape and type of `x`.

    Raises:
        ValueError: If `scale` or `temperature` is not positive, or a parameter is not finite.
        TypeError: If a parameter is not a number.

    Example:
        >>> import numpy as np, tfdp
        >>> values = np.array(tfdp.layers.tempered_sigmoid(np.array([-9.0, 0.0, 9.0])))
        >>> print(values.round(3))
        [-1.  0.  1.]
    """
    scale, temperature, offset = _check_parameters(scale, temperature, offset)
    return scale * ops.sigmoid(temperature * x) - offset


@keras.saving.register_keras_serializable(package="tfdp")
class TemperedSigmoid(keras.layers.Layer):
    """The activation layer `scale * sigmoid(temperature * x) - offset`.

    Under DP-SGD the activations of a ReLU network grow during training, its gradients with them,
    and clipping then discards more of the signal. A bounded activation stops that growth.

    Use it as a layer, or as the `activation` of another layer. It has no weights.

    Args:
        scale: A positive number, the distance between the two bounds. Defaults to `2.0`.
        temperature: A positive number that multiplies the input. Defaults to `2.0`.
        offset: A number, subtracted at the end. Defaults to `1.0`.
        **kwargs: The arguments of `keras.layers.Layer`, such as `name` and `dtype`.

    Raises:
        ValueError: If `scale` or `temperature` is not positive, or a parameter is not finite.
        TypeError: If a parameter is not a number.

    Input shape:
        Any; given as `(batch, ...)`.

    Output shape:
        The input shape.

    Example:
        >>> import keras, tfdp
        >>> layer = keras.layers.Dense(16, activation=tfdp.layers.TemperedSigmoid(1.58, 3.0, 0.71))
        >>> layer.activation.temperature
        3.0

    References:
        - [Papernot et al. (2021)](https://arxiv.org/abs/2007.14191), Tempered Sigmoid Activations
          for Deep Learning with Differential Privacy.
    """

    def __init__(
        self,
        scale: float = 2.0,
        temperature: float = 2.0,
        offset: float = 1.0,
        **kwargs: Any,
    ) -> None:
        """Initialises the layer."""
        super().__init__(**kwargs)
        self.scale, self.temperature, self.offset = _check_parameters(scale, temperature, offset)
        self.supports_masking = True
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Applies the activation to `inputs`."""
        return tempered_sigmoid(inputs, self.scale, self.temperature, self.offset)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Returns `input_shape`: the activation works element by element."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns what `from_config` needs to make an equal layer."""
        return {
            **super().get_config(),
            "scale": self.scale,
            "temperature": self.temperature,
            "offset": self.offset,
        }


def _check_parameters(
    scale: float, temperature: float, offset: float
) -> tuple[float, float, float]:
    """Returns the parameters as floats, if they make an increasing and bounded function."""
    return (
        _validate.positive("scale", scale),
        _validate.positive("temperature", temperature),
        _validate.real("offset", offset),
    )
