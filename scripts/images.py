"""Labelled images, in memory or read from files when they are needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from PIL import Image

import tfdp
from tfdp.sampling.rows import SourceRows

# Images of ImageNet are scaled to 256 pixels before a window of 224 is cut out of them.
_MARGIN = 256 / 224


class Images(Protocol):
    """Images of one shape with one class each, in an order of their own."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of one image, `(height, width, channels)`."""

    def __len__(self) -> int: ...

    def split(self, kept: int) -> tuple[Images, Images]:
        """The first `kept` of the images, and the others."""

    def poisson(
        self, expected_batch_size: int, steps_per_epoch: int | None = None
    ) -> tfdp.sampling.PoissonDataset:
        """Poisson samples of them, to train on; in memory also of a `capacity`."""

    def batches(self) -> tf.data.Dataset:
        """All of them once and in order, to evaluate on."""

    def arrays(self) -> tuple[Any, Any]:
        """All of them in memory."""


@dataclasses.dataclass(frozen=True)
class ArrayImages:
    """Images in memory.

    Attributes:
        x: Images, float32 in [0, 1], shape `(examples, height, width, channels)`.
        y: Labels, int64, shape `(examples,)`.
    """

    x: np.ndarray
    y: np.ndarray

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.x.shape[1:]

    def __len__(self) -> int:
        return len(self.x)

    def split(self, kept: int) -> tuple[ArrayImages, ArrayImages]:
        return ArrayImages(self.x[:kept], self.y[:kept]), ArrayImages(self.x[kept:], self.y[kept:])

    def poisson(
        self,
        expected_batch_size: int,
        steps_per_epoch: int | None = None,
        capacity: int | None = None,
    ) -> tfdp.sampling.PoissonDataset:
        return tfdp.sampling.PoissonDataset(
            self.x,
            self.y,
            expected_batch_size=expected_batch_size,
            steps_per_epoch=steps_per_epoch,
            capacity=capacity,
        )

    def batches(self) -> tf.data.Dataset:
        return _quiet(tf.data.Dataset.from_tensor_slices((self.x, self.y)).batch(256))

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        return self.x, self.y


@dataclasses.dataclass(frozen=True)
class FileImages:
    """Images that are decoded when they are needed, for sets that do not fit into memory.

    Attributes:
        source: A random-access source of dictionaries, as `tfds.data_source` is.
        image_key: The image's name in an element: uint8, `(height, width, channels)`.
        label_key: The label's name.
        size: Height and width that images are brought to: their shorter side is scaled to 8/7 of
            it, and the middle is cut out. `None`: they are of one size, and stay as they are.
        rows: Which elements of the source. Defaults to all.
    """

    source: Any
    image_key: str
    label_key: str
    size: int | None = None
    rows: range | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self._decoded(self[0])[0].shape

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.source[self._rows[index]]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        return self.source.__getitems__([self._rows[index] for index in indices])

    def split(self, kept: int) -> tuple[FileImages, FileImages]:
        rows = self._rows[:kept], self._rows[kept:]
        return tuple(dataclasses.replace(self, rows=part) for part in rows)

    def poisson(
        self, expected_batch_size: int, steps_per_epoch: int | None = None
    ) -> tfdp.sampling.PoissonDataset:
        return tfdp.sampling.PoissonDataset.from_source(
            self,
            self._decoded,
            expected_batch_size=expected_batch_size,
            steps_per_epoch=steps_per_epoch,
        )

    def batches(self) -> tf.data.Dataset:
        rows = SourceRows(self, self._decoded, num_workers=None)
        indices = tf.data.Dataset.range(len(self)).batch(64)
        return _quiet(indices.map(lambda batch: rows.gather(batch)[:2]).prefetch(1))

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        images, labels = zip(*map(self._decoded, self.__getitems__(range(len(self)))), strict=True)
        return np.stack(images), np.stack(labels)

    @property
    def _rows(self) -> range:
        return range(len(self.source)) if self.rows is None else self.rows

    def _decoded(self, element: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
        image = element[self.image_key]
        if self.size is not None:
            image = resized(image, self.size)
        return image.astype("float32") / 255, np.asarray(element[self.label_key], "int64")


def resized(image: np.ndarray, size: int) -> np.ndarray:
    """The middle of an image, scaled so that a margin of a sixteenth is left around it.

    Args:
        image: uint8, shape `(height, width, channels)`, 1 or 3 channels.
        size: Height and width of the result.

    Returns:
        uint8, shape `(size, size, channels)`.
    """
    height, width, channels = image.shape
    scale = round(size * _MARGIN) / min(height, width)
    shape = max(size, round(width * scale)), max(size, round(height * scale))
    picture = Image.fromarray(image if channels == 3 else image[..., 0])
    picture = picture.resize(shape, Image.Resampling.BILINEAR)
    left, top = (shape[0] - size) // 2, (shape[1] - size) // 2
    cut = np.asarray(picture.crop((left, top, left + size, top + size)))
    return cut.reshape(size, size, channels)


def _quiet(batches: tf.data.Dataset) -> tf.data.Dataset:
    """Without autotuning: where an iterator ends it would wait for a sleeping thread."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return batches.with_options(options)
