"""Convolution with standardized weights: normalization without looking at activations."""

from typing import Any

import keras
from keras import ops

from tfdp import _validate


@keras.saving.register_keras_serializable(package="tfdp")
class WeightStandardizedConv2D(keras.layers.Conv2D):
    """A 2-D convolution whose filters are standardized before they are used.

    Of each filter, with `fan_in` weights `W` of mean `mean` and variance `var`, the layer uses

    `gain * (W - mean) / sqrt(var * fan_in + epsilon)`

    so that its weights sum to zero and their squares to `gain ** 2`. With inputs of equal variance
    the outputs keep that variance. Unlike batch normalization this mixes no examples, and unlike
    the normalization of activations it costs nothing that grows with the batch.

    Args:
        filters: The number of filters, a positive integer.
        kernel_size: The height and width of a filter, one integer or a tuple of two.
        use_gain: Whether each filter has a trainable gain, which starts at one; without it the
            gains are one. Defaults to `True`.
        epsilon: A positive number, added to a filter's sum of squares. Defaults to `1e-6`.
        **kwargs: The further arguments of `keras.layers.Conv2D`, such as `strides` and `padding`.

    Raises:
        TypeError: If `filters` is not an integer, `use_gain` not a bool or `epsilon` not a number.
        ValueError: If `filters` or `epsilon` is not positive, or `kernel_size` is no size.

    Input shape:
        `(batch, height, width, channels)`.

    Output shape:
        `(batch, new_height, new_width, filters)`.

    Example:
        >>> import keras, numpy as np, tfdp
        >>> layer = tfdp.layers.WeightStandardizedConv2D(8, 3, padding="same")
        >>> layer(np.zeros((1, 5, 5, 2), "float32")).shape
        TensorShape([1, 5, 5, 8])
        >>> [tuple(weight.shape) for weight in layer.weights]
        [(8,), (3, 3, 2, 8), (8,)]

    References:
        - [Qiao et al. (2019)](https://arxiv.org/abs/1903.10520), Micro-Batch Training with
          Batch-Channel Normalization and Weight Standardization.
        - [Brock et al. (2021)](https://arxiv.org/abs/2101.08692), Characterizing signal propagation
          to close the performance gap in unnormalized ResNets, section 4: the scale and the gain.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        *,
        use_gain: bool = True,
        epsilon: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        """Initialises the layer."""
        filters = _validate.integer("filters", filters, minimum=1)
        super().__init__(filters, kernel_size, **kwargs)
        self.use_gain = _validate.boolean("use_gain", use_gain)
        self.epsilon = _validate.positive("epsilon", epsilon)
        self.gain = None

    def build(self, input_shape: Any) -> None:
        """Creates the gain, the kernel and the bias."""
        if self.use_gain:
            self.gain = self.add_weight(name="gain", shape=(self.filters,), initializer="ones")
        super().build(input_shape)  # Comes last: where it enables LoRA it lets no weight follow.

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        """Convolves `inputs` with the standardized `kernel`."""
        kernel, _ = standardize(kernel, self.epsilon)
        if self.gain is not None:
            kernel = kernel * ops.cast(self.gain, kernel.dtype)
        return super().convolution_op(inputs, ops.cast(kernel, inputs.dtype))

    def save_own_variables(self, store: dict[str, Any]) -> None:
        """Writes the weights to `store`."""
        super().save_own_variables(store)
        if self.gain is not None:
            store["gain"] = self.gain

    def load_own_variables(self, store: dict[str, Any]) -> None:
        """Reads the weights from `store`."""
        super().load_own_variables(store)
        if self.gain is not None:
            self.gain.assign(store["gain"])

    def get_config(self) -> dict[str, Any]:
        """Returns what `from_config` needs to make an equal layer."""
        return {**super().get_config(), "use_gain": self.use_gain, "epsilon": self.epsilon}


def standardize(kernel: Any, epsilon: float) -> tuple[Any, Any]:
    """Standardizes filters, in float32 or wider.

    Args:
        kernel: A tensor or variable of shape `(height, width, channels, filters)`.
        epsilon: A number, added to each filter's sum of squares.

    Returns:
        The standardized filters without their gains, of the kernel's shape, and what their centred
        weights were multiplied by, of shape `(filters,)`.
    """
    dtype = keras.backend.result_type(kernel.dtype, "float32")
    kernel = ops.cast(kernel, dtype)
    weights_of_a_filter = (0, 1, 2)
    centred = kernel - ops.mean(kernel, weights_of_a_filter, keepdims=True)
    # The variance times the number of weights is the sum of squares.
    scale = ops.rsqrt(ops.sum(ops.square(centred), weights_of_a_filter) + epsilon)
    return centred * scale, scale
