"""Embeddings: rows of a table, selected by integer ids."""

from __future__ import annotations

import math

import keras
import tensorflow as tf

from tfdp.clipping.per_example import (
    OuterProduct,
    PerExampleGradient,
    accumulation_dtype,
    as_positions,
    scale_rows,
    sum_of_squares,
)
from tfdp.clipping.registry import Call, Context, Rule, register_rule
from tfdp.clipping.rules.dense import flatten_positions


class SelectedRows(PerExampleGradient):
    """``g_i``: the table whose row ``ids[i, t]`` has received ``right[i, t]``, for each t.

    A row that one example selects more than once holds the sum of what it received, so the norm
    needs equal ids together: they are numbered through a sort within the example, and their
    gradients added up. That costs as much memory as the layer's own output; nothing here but
    `materialize` is as large as the table for each example.

    Args:
        ids: Integers of shape ``(batch,)`` or ``(batch, positions)``, none negative.
        right: Gradients of what was selected, ``(*ids.shape, features)``.
        rows: Rows of the table.
    """

    def __init__(self, ids: tf.Tensor, right: tf.Tensor, rows: int):
        super().__init__(right, ids)
        self._rows = rows
        self.positions = ids.shape[1] if ids.shape.rank == 2 else 1
        if self.positions == 1:
            self.method = "closed form"
        else:
            self.method = "sort ids"
            self.floats_per_example = (self.positions or 0) * right.shape[-1]

    def squared_norm(self) -> tf.Tensor:
        right, ids = self.tensors
        if self.method == "closed form":
            return sum_of_squares(right)
        batch, positions, features = tf.shape(right)[0], tf.shape(right)[1], right.shape[-1]
        places = number_equal_ids(ids) + positions * tf.range(batch)[:, None]
        sums = self._segment_sum(right, places, batch * positions)
        return sum_of_squares(tf.reshape(sums, [batch, positions * features]))

    def weighted_sum(self, weights: tf.Tensor) -> tf.Tensor:
        right, ids = self.tensors
        return self._segment_sum(scale_rows(right, tf.cast(weights, right.dtype)), ids, self._rows)

    def materialize(self) -> tf.Tensor:
        """The gradients, ``(batch, rows, features)``.

        This holds a table for each example. It is here for weights that a model uses more than
        once; with a large vocabulary, give each use an embedding of its own.
        """
        right, ids = self.tensors
        batch = tf.shape(ids, tf.int64)[0]
        first = self._rows * tf.reshape(tf.range(batch), [-1] + [1] * (ids.shape.rank - 1))
        sums = self._segment_sum(right, tf.cast(ids, tf.int64) + first, batch * self._rows)
        return tf.reshape(sums, [batch, self._rows, right.shape[-1]])

    def joined(self, others: list[PerExampleGradient]) -> PerExampleGradient | None:
        parts = [self, *others]
        if not all(type(part) is SelectedRows for part in parts):
            return None
        ids = [as_positions(part.tensors[1], 1, 0) for part in parts]
        right = [as_positions(part.tensors[0], 1, 1) for part in parts]
        ids = [tf.cast(i, tf.int64) for i in ids]
        return SelectedRows(tf.concat(ids, 1), tf.concat(right, 1), self._rows)

    def merged(self, count: int) -> PerExampleGradient:
        right, ids = self.tensors
        return SelectedRows(as_positions(ids, count, 0), as_positions(right, count, 1), self._rows)

    @staticmethod
    def _segment_sum(right: tf.Tensor, segments: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        right = tf.reshape(right, [-1, right.shape[-1]])
        return tf.math.unsorted_segment_sum(right, tf.reshape(segments, [-1]), count)


def number_equal_ids(ids: tf.Tensor) -> tf.Tensor:
    """Numbers the distinct ids of each row from 0: equal ids, and only they, share a number.

    Args:
        ids: Integers of shape ``(batch, positions)``.

    Returns:
        int32 numbers below ``positions``, of the same shape.
    """
    batch, positions = tf.unstack(tf.shape(ids))
    order = tf.argsort(ids, axis=1)
    ordered = tf.gather(ids, order, batch_dims=1)
    differs = tf.cast(ordered[:, 1:] != ordered[:, :-1], tf.int32)
    # An id and the one before it differ, or not; the first of all has number 0.
    numbers = tf.concat([tf.zeros_like(order[:, :1]), tf.cumsum(differs, axis=1)], axis=1)
    origin = order + positions * tf.range(batch)[:, None]
    numbers = tf.scatter_nd(
        tf.reshape(origin, [-1, 1]), tf.reshape(numbers, [-1]), [batch * positions]
    )
    return tf.reshape(numbers, [batch, positions])


def selected_ids(call: Call) -> tf.Tensor:
    """The rows that a call selects, ``(batch,)`` or ``(batch, positions)``."""
    ids = call.input
    if isinstance(ids, (tf.SparseTensor, tf.RaggedTensor)):
        raise ValueError(
            f"Layer '{call.layer.name}' has no per-example gradients for sparse or ragged ids; "
            f"make them dense first. Received: {type(ids).__name__}"
        )
    ids = tf.convert_to_tensor(ids)
    if ids.dtype not in (tf.int32, tf.int64):
        ids = tf.cast(ids, tf.int32)  # As Keras does.
    ids = tf.where(ids < 0, ids + call.layer.input_dim, ids)  # Keras counts these from the end.
    if ids.shape.rank > 2:
        sizes = ids.shape[1:]
        ids = tf.reshape(ids, [tf.shape(ids)[0], -1 if None in sizes else math.prod(sizes)])
    return ids


def lora_factors(layer: keras.layers.Embedding, dtype: tf.DType):
    """``a``, ``b`` and ``scale``: what is selected from is ``embeddings + scale * a @ b``."""
    a, b = tf.cast(layer.lora_embeddings_a, dtype), tf.cast(layer.lora_embeddings_b, dtype)
    # Keras versions without `lora_alpha` do not scale.
    return a, b, getattr(layer, "lora_alpha", layer.lora_rank) / layer.lora_rank


@register_rule(keras.layers.Embedding)
class EmbeddingRule(Rule):
    """``embeddings[ids]``, or with LoRA ``(embeddings + alpha / rank * a @ b)[ids]``.

    Masks need no care: whatever of a masked position reaches the loss is in its cotangent.
    """

    def refusal(self, layer: keras.layers.Embedding) -> str | None:
        if getattr(layer, "quantization_mode", None) is not None:
            return "it is quantized"
        return None

    def gradients(self, call: Call, cotangent: tf.Tensor, context: Context):
        layer, ids, rows = call.layer, selected_ids(call), call.layer.input_dim
        right = flatten_positions(tf.cast(cotangent, accumulation_dtype(cotangent.dtype)))
        if layer._embeddings.trainable:
            yield layer._embeddings, SelectedRows(ids, right, rows)
        if layer.lora_enabled:
            a, b, scale = lora_factors(layer, right.dtype)
            narrow = tf.matmul(right, scale * b, transpose_b=True)
            yield layer.lora_embeddings_a, SelectedRows(ids, narrow, rows)
            yield layer.lora_embeddings_b, OuterProduct(scale * tf.gather(a, ids), right)


class ReversibleEmbeddingRule(EmbeddingRule):
    """An embedding that also projects back, ``inputs @ embeddings^T``, with ``reverse=True``.

    With tied weights and both directions in one model, the uses are added up as instantiated
    gradients, ``batch x vocabulary x features``.
    """

    def gradients(self, call: Call, cotangent: tf.Tensor, context: Context):
        layer = call.layer
        if not call.kwargs.get("reverse", call.args[1] if len(call.args) > 1 else False):
            yield from super().gradients(call, cotangent, context)
            return
        dtype = accumulation_dtype(cotangent.dtype)
        left, right = tf.cast(call.input, dtype), tf.cast(cotangent, dtype)
        if layer.logit_soft_cap is not None:  # The output is that of a tanh.
            right *= 1 - tf.square(tf.cast(call.output, dtype) / layer.logit_soft_cap)
        left, right = flatten_positions(left), flatten_positions(right)
        if not layer.tie_weights:
            yield layer.reverse_embeddings, OuterProduct(left, right)
            return
        if layer._embeddings.trainable:
            yield layer._embeddings, OuterProduct(right, left)
        if layer.lora_enabled:
            a, b, scale = lora_factors(layer, dtype)
            narrow = tf.matmul(left, scale * b, transpose_b=True)
            yield layer.lora_embeddings_a, OuterProduct(right, narrow)
            yield layer.lora_embeddings_b, OuterProduct(tf.matmul(right, scale * a), left)


if hasattr(keras.layers, "ReversibleEmbedding"):  # Not in the oldest Keras that is supported.
    register_rule(keras.layers.ReversibleEmbedding)(ReversibleEmbeddingRule)
