"""Image arrays as evaluation takes them, and pictures of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tfdp import _validate


def as_images(name: str, value: Any) -> np.ndarray:
    """Checks that a value is an array of images.

    Args:
        name: Name of the argument.
        value: Shape ``(images, height, width, channels)`` with 1 or 3 channels, or
            ``(images, height, width)`` in grey; uint8, or floats in [0, 1].

    Returns:
        Floats in [0, 1], float32, of shape ``(images, height, width, channels)``.

    Raises:
        TypeError: If the value is not an array of uint8 or floats.
        ValueError: If it is empty, has another shape, or has numbers outside of [0, 1].
    """
    try:
        images = np.asarray(value)
    except ValueError:  # Images of different sizes.
        raise _validate.type_error(name, value, "an array of images") from None
    if images.dtype != np.uint8 and not np.issubdtype(images.dtype, np.floating):
        raise _validate.type_error(name, images.dtype, "an array of uint8 or floats")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or not images.size or images.shape[-1] not in (1, 3):
        raise _validate.value_error(
            name, np.shape(value), "images of shape (images, height, width, 1 or 3 channels)"
        )
    if images.dtype == np.uint8:
        return images.astype("float32") / 255
    low, high = images.min(), images.max()
    if not (low >= 0 and high <= 1):  # Not a number fails too.
        raise _validate.value_error(
            name, f"floats from {low} to {high}", "uint8, or floats in [0, 1]"
        )
    return images.astype("float32")


def as_labels(name: str, value: Any, count: int) -> np.ndarray:
    """Checks that a value is an array of class labels, one for each image.

    Args:
        name: Name of the argument.
        value: Integers, 0 or above, of shape ``(count,)`` or ``(count, 1)``.
        count: Number of images.

    Returns:
        The labels, int64, of shape ``(count,)``.

    Raises:
        TypeError: If the value is not an array of integers.
        ValueError: If its shape is another, or a label is negative.
    """
    labels = np.asarray(value)
    if not np.issubdtype(labels.dtype, np.integer):
        raise _validate.type_error(name, labels.dtype, "an array of integers")
    if labels.shape not in ((count,), (count, 1)):
        raise _validate.value_error(name, labels.shape, f"of shape ({count},), as the images")
    if labels.min() < 0:
        raise _validate.value_error(name, int(labels.min()), "labels of 0 or above")
    return labels.reshape(count).astype("int64")


def grid(images: Any, labels: Any = None, columns: int = 10) -> Figure:
    """Draws images in a grid; with labels, one row for each class.

    Args:
        images: Shape ``(images, height, width, channels)``; uint8, or floats in [0, 1].
        labels: Classes of the images, integers ``(images,)``. The row of a class shows its first
            images. Defaults to ``None``: all images, row by row.
        columns: Images in a row. Defaults to 10.

    Returns:
        A matplotlib `Figure`: ``figure.savefig(path)``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If it has the wrong shape or is out of range.

    Example:
        >>> import numpy as np, tfdp
        >>> figure = tfdp.synthesis.grid(np.zeros((30, 8, 8, 1)), np.arange(30) % 3, columns=4)
        >>> len(figure.axes)
        12
    """
    images = as_images("images", images)
    columns = _validate.integer("columns", columns, minimum=1)
    if labels is None:
        rows = [images[start : start + columns] for start in range(0, len(images), columns)]
        titles = [""] * len(rows)
    else:
        labels = as_labels("labels", labels, len(images))
        classes = np.unique(labels)
        rows = [images[labels == label][:columns] for label in classes]
        titles = [str(label) for label in classes]
    return draw_rows(rows, titles, columns)


def draw_rows(rows: list[np.ndarray], titles: list[str], columns: int) -> Figure:
    """Draws rows of images.

    Args:
        rows: For each row, images ``(up to columns, height, width, channels)`` in [0, 1].
        titles: What stands left of each row.
        columns: The number of places in a row; those without an image stay empty.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(0.8 * columns + 0.4, 0.8 * len(rows)), layout="constrained")
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, title, places in zip(rows, titles, axes, strict=True):
        places[0].set_ylabel(title, rotation=0, ha="right", va="center")
        for place in places:
            place.set(xticks=[], yticks=[])
            for spine in place.spines.values():
                spine.set_visible(False)
        for place, image in zip(places, row, strict=False):  # The last row may be shorter.
            if image.shape[-1] == 1:
                image = image[..., 0]
            place.imshow(image, cmap="gray", vmin=0, vmax=1)
    return figure
