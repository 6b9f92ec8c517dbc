"""What is given to ``fit``: which data it takes, and how validation data are split off."""

from __future__ import annotations

import logging
import numbers
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdp import _validate
from tfdp.sampling.declared import DeclaredDataset
from tfdp.sampling.poisson import PoissonDataset

_logger = logging.getLogger("tfdp")
_said = False


def training_data(
    x: Any,
    y: Any,
    sample_weight: Any,
    *,
    batch_size: int | None,
    steps_per_epoch: int | None,
    class_weight: dict | None,
    validation_split: float,
    validation_data: Any,
) -> tuple[PoissonDataset | DeclaredDataset, Any]:
    """What `keras.Model.fit` is given, as data whose sampling is known.

    Args:
        x: Arrays, a `PoissonDataset`, or what `declare` returns.
        y: As in Keras.
        sample_weight: As in Keras.
        batch_size: As in Keras; the expected size of a Poisson sample.
        steps_per_epoch: As in Keras.
        class_weight: As in Keras.
        validation_split: As in Keras.
        validation_data: As in Keras.

    Returns:
        The training data and the validation data.

    Raises:
        ValueError: For data whose sampling is unknown, or arguments that do not fit together.

    Example:
        >>> import numpy as np
        >>> data, validation_data = training_data(
        ...     np.zeros((100, 3)), np.zeros(100), None, batch_size=20, steps_per_epoch=None,
        ...     class_weight=None, validation_split=0.2, validation_data=None)
        >>> data.num_examples, data.sampling_probability, len(validation_data[0])
        (80, 0.25, 20)
    """
    if isinstance(x, (PoissonDataset, DeclaredDataset)):
        _refuse_beside_dataset(
            x,
            y=y,
            batch_size=batch_size,
            sample_weight=sample_weight,
            class_weight=class_weight,
            validation_split=validation_split or None,
        )
        return x, validation_data
    _check_arrays(x)
    if batch_size is not None:
        # Where the length of `x` is not seen or zero, it is refused below.
        shape = getattr(keras.tree.flatten(x)[0], "shape", ())
        most = (int(shape[0]) or None) if len(shape) else None
        batch_size = _validate.integer("batch_size", batch_size, minimum=1, maximum=most)
    (x, y, sample_weight), held_out = split_arrays(
        (x, y, sample_weight), validation_split, validation_data
    )
    dataset = PoissonDataset(
        x,
        y,
        with_class_weight(y, sample_weight, class_weight),
        expected_batch_size=batch_size,
        steps_per_epoch=steps_per_epoch,
    )
    _say_once(dataset)
    return dataset, held_out if validation_data is None else validation_data


def _say_once(dataset: PoissonDataset) -> None:
    """Tells whoever comes from Keras that batches are Poisson samples, once a process."""
    global _said
    if not _said:
        _logger.warning(
            "Private training draws Poisson samples: every example enters a batch with "
            "probability %.4g, so batches have %d examples on average. (This is said once.)",
            dataset.sampling_probability,
            dataset.expected_batch_size,
        )
        _said = True


def _check_arrays(x: Any) -> None:
    """Refuses what is not (nested) arrays: the sampling of a stream of batches is unknown."""
    if x is None:
        raise ValueError("`fit` needs training data. Received: x=None")
    for part in keras.tree.flatten(x):
        if not (hasattr(part, "shape") and hasattr(part, "dtype")) and not isinstance(
            part, numbers.Number
        ):
            raise ValueError(
                "Private training needs to know how examples are sampled, which a stream of "
                "batches does not tell. Give `fit` arrays, or say how the batches are drawn: "
                "fit(tfdp.sampling.declare(dataset, num_examples=..., batch_size=..., "
                'sampling="shuffled")). '
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

    Raises:
        TypeError: If ``validation_split`` is not a number.
        ValueError: If it is out of range, or leaves no example on one side.

    Example:
        >>> import numpy as np
        >>> kept, held_out = split_arrays((np.arange(10), None, None), validation_split=0.2)
        >>> held_out[0]
        array([8, 9])
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

    Raises:
        TypeError: If ``class_weight`` is no dictionary of integers and numbers.
        ValueError: If both kinds of weights are given, there is not one array of labels, or a
            class is negative.

    Example:
        >>> import numpy as np
        >>> with_class_weight(np.array([0, 1, 2]), None, {1: 3.0})
        array([1., 3., 1.], dtype=float32)
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
    if not isinstance(class_weight, Mapping):
        raise _validate.type_error("class_weight", class_weight, "a dictionary")
    labels = y.numpy() if isinstance(y, tf.Tensor) else np.asarray(y)
    if labels.ndim > 1:
        labels = labels.argmax(-1) if labels.shape[-1] > 1 else labels[..., 0]
    labels = np.round(labels).astype(np.int64)
    weights = np.ones(labels.shape, dtype="float32")
    for index, weight in class_weight.items():
        index = _validate.integer("class_weight", index, minimum=0)
        weights[labels == index] = _validate.real("class_weight", weight)
    return weights


def _refuse_beside_dataset(dataset: PoissonDataset | DeclaredDataset, **arguments: Any) -> None:
    for name, value in arguments.items():
        if value is not None:
            raise ValueError(
                f"`{name}` belongs to the data set when `x` is a {type(dataset).__name__}. "
                f"Received: {name}={value if np.isscalar(value) else type(value).__name__}"
            )
