"""What a caller may give as `activation`, made into layers."""

from collections.abc import Callable
from typing import Any, TypeAlias

import keras

Activation: TypeAlias = str | Callable[[Any], Any] | keras.layers.Layer


def new_activation_layer(activation: Activation) -> keras.layers.Layer:
    """Returns a new layer that applies `activation`; two calls never share a layer.

    Args:
        activation: The name of a Keras activation, a function of a tensor, or a layer. A layer is
            copied by its configuration, so that one with weights has weights of its own at each
            place of use, and the caller's layer stays untouched.

    Returns:
        A layer that is not built, under a name that Keras chooses.

    Raises:
        ValueError: If `activation` is none of these, or a name that Keras does not know.
    """
    if isinstance(activation, keras.layers.Layer):
        config = activation.get_config()
        config.pop("name", None)  # two layers of one model may not have the same name
        return type(activation).from_config(config)
    if not (isinstance(activation, str) or callable(activation)):
        raise ValueError(
            "`activation` must be the name of a Keras activation, a function or a layer. "
            f"Received: activation={activation!r}"
        )
    return keras.layers.Activation(activation)
