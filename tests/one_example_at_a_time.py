"""The obvious way to clip: gradients of one example at a time. What fast paths are held against."""

import keras
import numpy as np
import tensorflow as tf


def gradients(model, loss, x, y, sample_weight=None):
    """Per-example gradients as float64 arrays ``(batch, *variable)``, one for each variable."""
    length = len(keras.tree.flatten(x)[0])
    rows = []
    for i in range(length):
        one_x, one_y = keras.tree.map_structure(lambda a, i=i: a[i : i + 1], (x, y))
        with tf.GradientTape() as tape:
            weight = None if sample_weight is None else sample_weight[i : i + 1]
            value = tf.reduce_sum(loss(one_y, model(one_x, training=True), weight))
        row = tape.gradient(value, [v.value for v in model.trainable_variables])
        rows.append(
            [
                np.zeros(v.shape) if g is None else np.asarray(tf.convert_to_tensor(g), "float64")
                for v, g in zip(model.trainable_variables, row, strict=True)
            ]
        )
    return [
        np.stack([row[k] for row in rows]) if rows else np.zeros((0, *v.shape))
        for k, v in enumerate(model.trainable_variables)
    ]


def norms(per_example):
    """Norms over all variables together, of shape ``(batch,)``."""
    return np.sqrt(sum((g.reshape(len(g), -1) ** 2).sum(1) for g in per_example))


def clipped_sum(per_example, l2_norm_clip):
    """``sum_i clip(g_i)`` for each variable."""
    factors = np.minimum(1.0, l2_norm_clip / np.maximum(norms(per_example), 1e-30))
    return [np.tensordot(factors, g, 1) for g in per_example]


def assert_close(actual, expected, tolerance=1e-5, terms=None):
    """Equal to ``tolerance`` relative to the largest number of all the tensors together.

    Where examples can cancel each other, ``terms`` are what the tensors are sums of: their
    largest number is then the scale.
    """
    scale = max(max(np.abs(e).max(initial=0) for e in terms or expected), 1e-12)
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(np.asarray(a, "float64"), e, rtol=0, atol=tolerance * scale)
