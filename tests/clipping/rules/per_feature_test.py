"""Layers with one weight a feature, against one example at a time."""

import keras
import numpy as np
import one_example_at_a_time as reference
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdp import clipping


def linear_loss(direction, output, weight=None):
    """Its gradient with respect to the output is ``direction``, whatever the output."""
    del weight
    product = tf.cast(direction, output.dtype) * output
    return tf.reduce_sum(product, list(range(1, product.shape.rank)))


def check(model, x, rng, tolerance=1e-5):
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    direction = rng.normal(size=model(x).shape).astype("float32")
    per_example = reference.gradients(model, linear_loss, x, direction)
    clip = float(np.median(reference.norms(per_example)))
    clipper, plan = clipping.ClipBound(clip).resolve(model), clipping.make_plan(model)
    engine = clipping.RecordingEngine(model, clipper, plan, clipping.Context())
    result = engine(x, direction, None, linear_loss)
    np.testing.assert_allclose(result.norms, reference.norms(per_example), rtol=tolerance)
    expected = reference.clipped_sum(per_example, clip)
    reference.assert_close(result.sums, expected, tolerance, terms=per_example)
    return engine


@st.composite
def shapes_and_shared_axes(draw):
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    axes = st.lists(st.integers(1, len(shape)), unique=True, max_size=len(shape))
    return tuple(shape), draw(st.none() | axes)


@settings(max_examples=20, deadline=None)
@given(shapes_and_shared_axes(), st.integers(1, 4), st.integers(0, 99))
def test_prelu(shape_and_axes, length, seed):
    shape, shared_axes = shape_and_axes
    rng = np.random.default_rng(seed)
    model = keras.Sequential([keras.Input(shape), keras.layers.PReLU(shared_axes=shared_axes)])
    x = -np.abs(rng.normal(size=(length, *shape)).astype("float32"))
    x.reshape(-1)[1::2] *= -1  # Half of the features are on the side of the weights.
    engine = check(model, x, rng)
    assert engine.reports[0].method == "sum"


def test_prelu_at_zero_and_in_mixed_precision():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 4, 5)).astype("float32")
    x[:, 1] = 0
    check(keras.Sequential([keras.Input((4, 5)), keras.layers.PReLU()]), x, rng)
    layer = keras.layers.PReLU(shared_axes=[1], dtype="mixed_bfloat16")
    engine = check(keras.Sequential([keras.Input((4, 5)), layer]), x, rng, tolerance=2e-2)
    assert engine.reports[0].weights == 5


def test_a_frozen_prelu_costs_nothing():
    layers = [keras.layers.PReLU("ones", trainable=False), keras.layers.PReLU(name="free")]
    engine = check(
        keras.Sequential([keras.Input((3,)), *layers]),
        -np.ones((2, 3), "float32"),
        np.random.default_rng(0),
    )
    assert [report.layer for report in engine.reports] == ["free"]


@pytest.mark.parametrize("by_name", [False, True])
def test_the_input_of_a_layer_by_position_or_by_name(by_name):
    layer = keras.layers.PReLU()
    args, kwargs = ((), {"inputs": 7}) if by_name else ((7,), {})
    assert clipping.Call(layer, args, kwargs, None).input == 7
