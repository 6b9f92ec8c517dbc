"""Arrays given to ``fit``: what is accepted, and how validation data are split off."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdp import _validate


def check_arrays(x: Any) -> None:
    """Refuses what is not (nested) arrays.

    Raises:
        ValueError: For `tf.data.Dataset`s, generators and other streams, whose sampling is unknown.
    """
    if x is None:
        raise ValueError("`fit` needs training data. Received: x=None")
    for part in keras.tree.flatten(x):
        if not (hasattr(part, "shape") and hasattr(part, "dtype")) and not np.isscalar(part):
            raise ValueError(
                "Private training needs to know how examples are sampled, which a stream of "
                "batches does not tell. Give `fit` arrays, or a "
                "tfdp.sampling.PoissonDataset(x, y, expected_batch_size=...). "
                f"Received: x of type {type(x).__name__}"
            )


def split_arrays(
    data: tuple, validation_split: float, validation_data: Any = None
) -> tuple[tuple, tuple | None]:
    """Splits the last part of all arrays off, as ``fit(validation_split=...)`` does in Keras.

    Args:
        data: ``(x, y, sample_weight)``.
        validation_split: Fraction in [0, 1).
        validation_data: If given, nothing is split.

    Returns:
        Training data and held-out data; the latter ``None`` if nothing is split.
    """
    fraction = _validate.probability("validation_split", validation_split)
    if not fraction or validation_data is not None:
        return data, None
    length = len(keras.tree.flatten(data[0])[0])
    kept = int(np.floor(length * (1.0 - fraction)))
    if kept in (0, length):
        raise ValueError(
            f"No examples are left on one side of the split of {length}. "
            f"Received: validation_split={validation_split}"
        )

    def cut(start, stop):
        return tuple(
            None if part is None else keras.tree.map_structure(lambda a: a[start:stop], part)
            for part in data
        )

    return cut(0, kept), cut(kept, length)


def with_class_weight(y: Any, sample_weight: Any, class_weight: dict | None) -> Any:
    """Sample weights that stand for class weights.

    Args:
        y: Labels ``(batch,)`` or ``(batch, 1)`` of integers, or one-hot ``(batch, classes)``.
        sample_weight: Must be ``None`` if class weights are given.
        class_weight: Weight of each class by its index; 1 for classes that are left out.

    Returns:
        ``sample_weight`` itself if there are no class weights, else an array ``(batch,)``.
    """
    if class_weight is None:
        return sample_weight
    if sample_weight is not None:
        raise ValueError(
            "`class_weight` and `sample_weight` cannot be given together. "
            f"Received: class_weight={class_weight}"
        )
    if y is None or keras.tree.is_nested(y):
        raise ValueError(
            f"`class_weight` needs one array of labels. Received: y of type {type(y).__name__}"
        )
    labels = y.numpy() if isinstance(y, tf.Tensor) else np.asarray(y)
    if labels.ndim > 1:
        labels = labels.argmax(-1) if labels.shape[-1] > 1 else labels[..., 0]
    labels = np.round(labels).astype(np.int64)
    weights = np.ones(labels.shape, dtype="float32")
    for index, weight in class_weight.items():
        weights[labels == index] = weight
    return weights


def refuse_beside_dataset(**arguments: Any) -> None:
    """Refuses arguments of ``fit`` that a `PoissonDataset` already holds."""
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(
                f"`{name}` belongs to the PoissonDataset when `x` is one. "
                f"Received: {name}={value if np.isscalar(value) else type(value).__name__}"
            )
