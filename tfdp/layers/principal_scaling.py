"""Centred inputs whose strongest directions are scaled down."""

from typing import Any

import keras
import numpy as np
from keras import ops

from tfdp import _validate


@keras.saving.register_keras_serializable(package="tfdp")
class PrincipalScaling(keras.layers.Layer):
    """Subtracts a mean, and scales down the directions in which inputs vary most.

    An input `x`, taken as one vector, becomes `z + sum_k (f_k - 1) <u_k, z> u_k` with
    `z = x - mean`: along each of the orthonormal directions `u_k` it is multiplied by `f_k`, and
    elsewhere it stays. With `f_k = sqrt(v / v_k)`, where `v_k` is the variance along `u_k` and `v`
    the least of them, all of them vary as little as the last.

    Under a clipped gradient that pays: what is common to all examples takes no more of the clip
    norm, and gradients are less drawn out. The numbers come from `tfdp.statistics.measure`, which
    charges for them. They are not trained; a new layer has zeros, and changes nothing.

    Args:
        num_directions: The number of directions, not negative. Defaults to `0`: inputs are centred
            alone.
        **kwargs: The further arguments of `keras.layers.Layer`.

    Raises:
        TypeError: If `num_directions` is not an integer.
        ValueError: If it is negative.

    Input shape:
        `(batch, ...)`, with all but the batch known.

    Output shape:
        That of the input.

    Example:
        >>> import numpy as np, tfdp
        >>> layer = tfdp.layers.PrincipalScaling(num_directions=1)
        >>> layer.build((None, 2))
        >>> layer.set_statistics(np.array([1.0, 1.0]), np.array([[1.0], [0.0]]), [0.25])
        >>> layer(np.array([[5.0, 3.0]])).numpy().tolist()
        [[1.0, 2.0]]
    """

    def __init__(self, num_directions: int = 0, **kwargs: Any) -> None:
        """Initialises the layer."""
        super().__init__(**kwargs)
        self.num_directions = _validate.integer("num_directions", num_directions, minimum=0)

    def build(self, input_shape: Any) -> None:
        """Creates the mean, the directions and their factors, which are not trained."""
        size = 1
        for length in input_shape[1:]:
            size *= _validate.integer("input_shape", length, minimum=1)

        def weight(name: str, shape: tuple[int, ...], initializer: str) -> keras.Variable:
            return self.add_weight(name=name, shape=shape, initializer=initializer, trainable=False)

        self.mean = weight("mean", (size,), "zeros")
        self.directions = weight("directions", (size, self.num_directions), "zeros")
        self.factors = weight("factors", (self.num_directions,), "ones")

    def set_statistics(self, mean: Any, directions: Any = None, factors: Any = None) -> None:
        """Sets the numbers of a layer that is built.

        Args:
            mean: The mean, of the shape of one input.
            directions: Orthonormal columns, of shape `(numbers in an input, num_directions)`. May
                be left out where there are none.
            factors: What inputs are multiplied by along each, of shape `(num_directions,)`.

        Raises:
            ValueError: If a shape is another, or the layer is not built.
        """
        if not self.built:
            raise ValueError("Build the layer before its statistics are set, or call it once.")
        size, count = self.directions.shape
        if directions is None and factors is None and not count:
            directions, factors = np.zeros((size, 0)), np.zeros(0)
        given = {"mean": mean, "directions": directions, "factors": factors}
        for name, wanted in (("directions", (size, count)), ("factors", (count,))):
            if np.shape(given[name]) != wanted:
                raise ValueError(
                    f"`{name}` must have the shape {wanted}. "
                    f"Received: {name} of shape {np.shape(given[name])}"
                )
        if np.size(mean) != size:
            raise ValueError(
                f"`mean` must have {size} numbers. Received: mean of shape {np.shape(mean)}"
            )
        self.mean.assign(np.reshape(mean, (-1,)))
        self.directions.assign(directions)
        self.factors.assign(factors)

    def call(self, inputs: Any) -> Any:
        """Returns the scaled `inputs`."""
        shape = ops.shape(inputs)
        centred = ops.reshape(inputs, (-1, self.mean.shape[0])) - ops.cast(self.mean, inputs.dtype)
        if self.num_directions:
            directions = ops.cast(self.directions, inputs.dtype)
            along = ops.matmul(centred, directions) * ops.cast(self.factors - 1, inputs.dtype)
            centred = centred + ops.matmul(along, ops.transpose(directions))
        return ops.reshape(centred, shape)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Returns the shape of the input."""
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Returns what `from_config` needs to make an equal layer."""
        return {**super().get_config(), "num_directions": self.num_directions}
