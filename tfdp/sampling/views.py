"""Augmentation multiplicity: several augmented views of each example, one gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfdp import _validate

#: Layers of Keras and keras-cv that make one image of several, by class name.
_MIX_EXAMPLES = ("CutMix", "FourierMix", "MixUp", "Mosaic")


class Views:
    """Makes `multiplicity` augmented views of each example of a physical batch.

    The views of example i are the rows ``i * multiplicity`` to ``(i + 1) * multiplicity - 1``.

    Args:
        augmentation: Layer or function of the inputs, applied to all views at once with
            ``training=True``. Its randomness must differ between rows, or views are alike.
        multiplicity: Views of each example, at least 1. Defaults to 1.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If `multiplicity` is below 1 or the augmentation mixes examples.

    Example:
        >>> import tensorflow as tf, tfdp
        >>> views = tfdp.sampling.Views(tfdp.layers.RandomShift(1), multiplicity=3)
        >>> x, y, _ = views(tf.zeros([2, 8, 8, 1]), tf.constant([0, 1]), None)
        >>> x.shape[0], y.numpy().tolist()
        (6, [0, 0, 0, 1, 1, 1])

    References:
        - De et al. 2022, "Unlocking High-Accuracy Differentially Private Image Classification
          through Scale", arXiv:2204.13650.
    """

    def __init__(self, augmentation: Callable, multiplicity: int = 1):
        if not callable(augmentation):
            raise _validate.type_error("augmentation", augmentation, "a layer or a function")
        self.multiplicity = _validate.integer("augmentation_multiplicity", multiplicity, minimum=1)
        self.augmentation = augmentation
        for layer in _layers(augmentation):
            if any(base.__name__ in _MIX_EXAMPLES for base in type(layer).__mro__):
                raise ValueError(
                    "An augmentation must not make one image of several: their gradients could "
                    f"not be told apart. Received: augmentation={layer.name!r} "
                    f"({type(layer).__name__})"
                )

    def __call__(self, x: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        """Augmented inputs, targets and weights, a row for each view."""
        x, y, sample_weight = keras.tree.map_structure(self._repeated, (x, y, sample_weight))
        if isinstance(self.augmentation, keras.layers.Layer):
            return self.augmentation(x, training=True), y, sample_weight
        return self.augmentation(x), y, sample_weight

    def _repeated(self, tensor: tf.Tensor | None) -> tf.Tensor | None:
        if tensor is None or self.multiplicity == 1:
            return tensor
        return tf.repeat(tensor, self.multiplicity, axis=0)


def _layers(augmentation: Any) -> list[keras.layers.Layer]:
    if not isinstance(augmentation, keras.layers.Layer):
        return []
    return [augmentation, *augmentation._flatten_layers(include_self=False)]
