"""Images brought upright, each by what it shows alone."""

from typing import Any

import keras
from keras import ops

from tfdp import _validate

# Added to the variance of heights, in square pixels, that the slant is divided by: what is one
# pixel high has no slant.
_LEAST_VARIANCE = 1e-3


@keras.saving.register_keras_serializable(package="tfdp")
class Deslant2D(keras.layers.Layer):
    """Shears each image sideways until what it shows stands upright.

    Pixels are taken for masses, all channels together. With their centre `(r, c)` and the
    covariance of row and column over the variance of rows, `a`, the pixel at `(row, column)` is
    read at `column + a (row - r)`, between two pixels by linear interpolation, and from beyond the
    image as zero. The same covariance of the new image is about zero. An image without mass stays
    as it is.

    That takes the slant of handwriting away, which says nothing of what is written, and pays where
    little can be learned under noise. Each image is changed by what it shows alone: no example
    depends on another, and it costs no privacy. What stands upright already has nothing to gain.

    Args:
        max_slant: The largest `a` in either direction, in columns a row, positive; what slants more
            is sheared by so much. Defaults to `1.0`, which is 45 degrees.
        **kwargs: The further arguments of `keras.layers.Layer`.

    Raises:
        TypeError: If `max_slant` is not a number.
        ValueError: If it is not positive and finite, or inputs are no images of known shape.

    Input shape:
        `(batch, height, width, channels)`, all but the batch known; not negative, with zero for the
        ground that things stand on.

    Output shape:
        That of the input. It is worked out in float32.

    Example:
        >>> import numpy as np, tfdp
        >>> slanting = np.eye(3, dtype="float32")[None, ::-1, :, None]
        >>> tfdp.layers.Deslant2D()(slanting)[0, :, :, 0].numpy().round(2).tolist()
        [[0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]]

    References:
        - [LeCun, Bottou, Bengio and Haffner (1998)](https://doi.org/10.1109/5.726791),
          Gradient-Based Learning Applied to Document Recognition, section III: images of MNIST,
          deslanted by moments of inertia.
    """

    def __init__(self, max_slant: float = 1.0, **kwargs: Any) -> None:
        """Initialises the layer."""
        super().__init__(**kwargs)
        self.max_slant = _validate.positive("max_slant", max_slant)

    def build(self, input_shape: Any) -> None:
        """Looks at the shape of an image; there are no weights."""
        if len(input_shape) != 4 or None in tuple(input_shape)[1:]:
            raise ValueError(
                "Deslant2D takes images of known shape, (batch, height, width, channels). "
                f"Received: input_shape={tuple(input_shape)}"
            )

    def call(self, inputs: Any) -> Any:
        """Returns `inputs`, upright."""
        images = ops.cast(inputs, "float32")
        _, height, width, channels = images.shape
        rows = ops.reshape(ops.arange(height, dtype="float32"), (1, height, 1))
        columns = ops.reshape(ops.arange(width, dtype="float32"), (1, 1, width))

        mass = ops.sum(images, axis=-1)
        total = ops.sum(mass, axis=(1, 2), keepdims=True)
        shares = mass / ops.where(total > 0, total, 1.0)

        def mean(values: Any) -> Any:
            return ops.sum(shares * values, axis=(1, 2), keepdims=True)

        down, right = rows - mean(rows), columns - mean(columns)
        slant = mean(down * right) / (mean(ops.square(down)) + _LEAST_VARIANCE)
        slant = ops.clip(slant, -self.max_slant, self.max_slant)

        # From where each pixel is read: between the `left`th column and the next. A column of zeros
        # on each side, and beyond, stands for what is outside the image. (XLA, for steps that are
        # compiled, does not know the kernel of Keras's own `affine_transform`.)
        read = ops.clip(columns + slant * down, -1.0, width)
        left = ops.floor(read)
        share = ops.expand_dims(read - left, -1)
        # What is not finite has an index of any size: the image is lost, but no other.
        index = ops.clip(ops.cast(left, "int32") + 1, 0, width + 1)
        index = ops.expand_dims(index, -1)
        padded = ops.pad(images, ((0, 0), (0, 0), (1, 2), (0, 0)))
        index = ops.repeat(index, channels, axis=-1)
        upright = (1 - share) * ops.take_along_axis(padded, index, axis=2)
        upright = upright + share * ops.take_along_axis(padded, index + 1, axis=2)
        return ops.cast(upright, self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Returns the shape of the input."""
        return tuple(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Returns what `from_config` needs to make an equal layer."""
        return {**super().get_config(), "max_slant": self.max_slant}
