"""Layers that multiply or add weights of their own to all of their input."""

import keras
import numpy as np
import one_example_at_a_time as reference
import tensorflow as tf
from clipping.rules.layer_cases import CLIP, check, engine_for, few, loss
from hypothesis import given
from hypothesis import strategies as st

from tfdp.layers import PositionEmbedding, SkipInit

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)
batches = st.integers(1, 3)


@few(max_examples=15)
@given(shapes, batches, st.integers(0, 99))
def test_skip_init(shape, batch, seed):
    assert check(SkipInit(), shape, batch=batch, seed=seed) == ["sum"]


@few(max_examples=15)
@given(st.integers(1, 5), st.integers(1, 5), batches, st.integers(0, 99))
def test_position_embedding(length, features, batch, seed):
    layer = PositionEmbedding()
    assert check(layer, (length, features), batch=batch, seed=seed) == ["sum"]


def test_batches_without_examples():
    for layer in (SkipInit(1.0), PositionEmbedding()):
        model = keras.Sequential([keras.Input((3, 2)), layer])
        nothing = tf.zeros([0, 3, 2])
        result = engine_for(model)(nothing, nothing, None, loss)
        assert result.norms.shape == (0,)
        (total,), (variable,) = result.sums, model.trainable_variables
        assert total.shape == variable.shape and not total.numpy().any()


def test_layers_used_twice():
    inputs = keras.Input((3, 4))
    scale, positions = SkipInit(0.7), PositionEmbedding()
    hidden = positions(scale(inputs))
    model = keras.Model(inputs, positions(scale(keras.ops.tanh(hidden))) + hidden)
    x, y = np.random.default_rng(0).normal(size=(2, 5, 3, 4)).astype("float32")
    per_example = reference.gradients(model, loss, x, y)
    sums = engine_for(model)(tf.constant(x), tf.constant(y), None, loss).sums
    reference.assert_close(sums, reference.clipped_sum(per_example, CLIP))


def test_norms_in_mixed_precision_are_summed_in_float32(mixed_precision):
    model = keras.Sequential([keras.Input((40, 40, 2)), SkipInit(1.0)])
    x = np.full((1, 40, 40, 2), 8.0, "float32")
    norms = engine_for(model)(
        tf.constant(x),
        tf.constant(x),
        None,
        lambda y, p, w: tf.reduce_sum(tf.cast(p, "float32") * y, [1, 2, 3]),
    ).norms
    np.testing.assert_allclose(norms, [40 * 40 * 2 * 64.0], rtol=1e-3)  # Beyond float16.
