"""The loss of each example by itself, from the loss that a model was compiled with."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdp import _replicas


class PerExampleLoss:
    """``(y, y_pred, sample_weight) -> (batch,)``: the compiled loss on batches of one.

    Whatever the compiled loss does with a batch (weights, several outputs, masks, any reduction,
    a user's own function), example i's loss is what it gives on example i alone. The rows are
    evaluated in parallel with ``tf.vectorized_map``.

    Args:
        compiled_loss: What Keras makes of ``compile(loss=..., loss_weights=...)``: a callable
            ``(y, y_pred, sample_weight) -> scalar``.
    """

    def __init__(self, compiled_loss: Any):
        self._compiled_loss = compiled_loss

    def __call__(self, y: Any, y_pred: Any, sample_weight: Any = None) -> tf.Tensor:
        masks = keras.tree.map_structure(lambda t: getattr(t, "_keras_mask", None), y_pred)
        structure = (y, y_pred, sample_weight, masks)
        flat = keras.tree.flatten(structure)
        present = [tensor is not None for tensor in flat]

        def one_example(row):
            remaining = iter(row)
            parts = [next(remaining)[None] if there else None for there in present]
            one_y, one_pred, one_weight, one_mask = keras.tree.pack_sequence_as(structure, parts)
            for prediction, mask in zip(
                keras.tree.flatten(one_pred), keras.tree.flatten(one_mask), strict=True
            ):
                if mask is not None:
                    prediction._keras_mask = mask
            # Keras tracks the losses of single outputs as metrics: not from in here.
            with keras.StatelessScope():
                loss = self._compiled_loss(one_y, one_pred, one_weight)
            return tf.reduce_sum(loss)

        def each_example(rows):
            if rows[0].shape[0] == 1:
                return one_example([tensor[0] for tensor in rows])[None]
            return tf.vectorized_map(one_example, rows)

        return _replicas.as_on_one_device(each_example, [t for t in flat if t is not None])
