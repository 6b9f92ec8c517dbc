"""Layers that multiply or add weights of their own to all of their input."""

from __future__ import annotations

import tensorflow as tf

from tfdp.clipping.per_example import accumulation_dtype
from tfdp.clipping.registry import Call, Context, Rule, register_rule
from tfdp.clipping.rules.per_feature import feature_gradient
from tfdp.layers import PositionEmbedding, SkipInit


@register_rule(SkipInit)
class SkipInitRule(Rule):
    """``inputs * multiplier`` with one number as multiplier."""

    def gradients(self, call: Call, cotangent: tf.Tensor, context: Context):
        dtype = accumulation_dtype(cotangent.dtype)
        product = tf.cast(call.input, dtype) * tf.cast(cotangent, dtype)
        yield call.layer.multiplier, feature_gradient(product, call.layer.multiplier)


@register_rule(PositionEmbedding)
class PositionEmbeddingRule(Rule):
    """``inputs + embeddings``: the gradient of the embeddings is that of the output."""

    def gradients(self, call: Call, cotangent: tf.Tensor, context: Context):
        yield call.layer.embeddings, feature_gradient(cotangent, call.layer.embeddings)
