"""Images as files hold them and as diffusion models do."""

from __future__ import annotations

from typing import Any

import numpy as np

from tfdp import _validate


def to_unit_range(images: Any) -> np.ndarray:
    """Images of bytes, scaled to [-1, 1].

    Args:
        images: Array of any shape, uint8.

    Returns:
        ``images / 127.5 - 1``, float32.

    Raises:
        TypeError: If ``images`` are not uint8.

    Example:
        >>> import numpy as np, tfdp
        >>> tfdp.synthesis.to_unit_range(np.array([0, 255], "uint8")).tolist()
        [-1.0, 1.0]
    """
    images = np.asarray(images)
    if images.dtype != np.uint8:
        raise _validate.type_error("images", images.dtype, "an array of uint8")
    return images.astype("float32") / 127.5 - 1


def to_bytes(images: Any) -> np.ndarray:
    """Images in [-1, 1] as bytes; numbers outside are clipped.

    Args:
        images: Array of any shape, floats.

    Returns:
        uint8, rounded.

    Raises:
        TypeError: If ``images`` are not floats.

    Example:
        >>> import numpy as np, tfdp
        >>> tfdp.synthesis.to_bytes(np.array([-1.0, 1.0, 3.0])).tolist()
        [0, 255, 255]
    """
    images = np.asarray(images)
    if not np.issubdtype(images.dtype, np.floating):
        raise _validate.type_error("images", images.dtype, "an array of floats")
    return np.rint((np.clip(images, -1, 1) + 1) * 127.5).astype("uint8")
