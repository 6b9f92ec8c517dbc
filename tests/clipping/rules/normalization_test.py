"""Normalization layers against one example at a time."""

import warnings

import keras
import numpy as np
import one_example_at_a_time as reference
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdp import clipping
from tfdp.clipping.registry import find_rule

L = keras.layers
needs_rms = pytest.mark.skipif(not hasattr(L, "RMSNormalization"), reason="this Keras has none")
lengths, seeds = st.integers(1, 4), st.integers(0, 99)


def linear_loss(direction, output, weight=None):
    """Its gradient with respect to the output is ``direction``, whatever the output."""
    del weight
    product = tf.cast(direction, output.dtype) * output
    return tf.reduce_sum(product, list(range(1, product.shape.rank)))


def engine_for(model, clip=1.0):
    clipper = clipping.ClipBound(clip).resolve(model)
    return clipping.RecordingEngine(model, clipper, clipping.make_plan(model), clipping.Context())


def check(layer, shape, length=3, seed=0, tolerance=1e-5):
    rng = np.random.default_rng(seed)
    model = keras.Sequential([keras.Input(shape), layer])
    for variable in model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    x = (0.5 + 2 * rng.normal(size=(length, *shape))).astype("float32")
    direction = rng.normal(size=x.shape).astype("float32")
    per_example = reference.gradients(model, linear_loss, x, direction)
    clip = float(np.median(reference.norms(per_example)))
    result = engine_for(model, clip)(x, direction, None, linear_loss)
    np.testing.assert_allclose(result.norms, reference.norms(per_example), rtol=tolerance)
    reference.assert_close(result.sums, reference.clipped_sum(per_example, clip), tolerance)


@st.composite
def shapes_and_axes(draw):
    shape = draw(st.lists(st.integers(2, 5), min_size=1, max_size=3))
    rank = len(shape)
    axes = st.lists(st.integers(1, rank), unique=True, min_size=1, max_size=rank)
    negative = draw(st.booleans())
    axes = [axis - rank - 1 if negative else axis for axis in draw(axes)]
    return tuple(shape), axes[0] if len(axes) == 1 and draw(st.booleans()) else axes


@settings(max_examples=20, deadline=None)
@given(shapes_and_axes(), st.sampled_from([(1, 1), (1, 0), (0, 1)]), lengths, seeds)
def test_layer_normalization(shape_and_axes, scale_and_center, length, seed):
    shape, axis = shape_and_axes
    scale, center = map(bool, scale_and_center)
    check(L.LayerNormalization(axis, scale=scale, center=center), shape, length, seed)


def test_layer_normalization_with_axes_from_both_ends():
    check(L.LayerNormalization([-1, 1]), (3, 2, 4))


def test_layer_normalization_with_the_deprecated_scaling():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(L.LayerNormalization(rms_scaling=True), (3, 4))


@needs_rms
@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(2, 5), min_size=1, max_size=3), st.data(), lengths, seeds)
def test_rms_normalization(shape, data, length, seed):
    # Keras only has layers of trailing axes: it aligns the scale with those.
    count = data.draw(st.integers(1, len(shape)))
    axis = -1 if count == 1 else list(range(-count, 0))
    check(L.RMSNormalization(axis), tuple(shape), length, seed)


@needs_rms
def test_rms_normalization_of_a_square_aligns_the_scale_with_the_last_axis():
    check(L.RMSNormalization(axis=1), (4, 4))


@st.composite
def shapes_and_groups(draw):
    groups, size = draw(st.integers(1, 3)), draw(st.integers(2, 3))
    shape = draw(st.lists(st.integers(1, 4), max_size=3))
    axis = draw(st.integers(0, len(shape)))
    shape.insert(axis, groups * size)
    return tuple(shape), groups, draw(st.sampled_from([axis + 1, axis - len(shape)]))


@settings(max_examples=25, deadline=None)
@given(shapes_and_groups(), st.sampled_from([(1, 1), (1, 0), (0, 1)]), lengths, seeds)
def test_group_normalization(shape_groups_axis, scale_and_center, length, seed):
    shape, groups, axis = shape_groups_axis
    scale, center = map(bool, scale_and_center)
    layer = L.GroupNormalization(groups, axis, scale=scale, center=center)
    check(layer, shape, length, seed)


def test_instance_normalization():
    check(L.GroupNormalization(groups=-1), (3, 2, 4))


LAYERS = {
    "layer": lambda **options: L.LayerNormalization(**options),
    "group": lambda **options: L.GroupNormalization(2, **options),
    "rms": lambda **options: L.RMSNormalization(**options),
}
if not hasattr(L, "RMSNormalization"):
    del LAYERS["rms"]


@pytest.mark.parametrize("name", LAYERS)
def test_mixed_precision(name):
    check(LAYERS[name](dtype="mixed_bfloat16"), (5, 4), tolerance=2e-2)


@pytest.mark.parametrize("name", LAYERS)
def test_weights_of_zero(name):
    # Where the weight is zero, the output says nothing of the normalized input.
    model = keras.Sequential([keras.Input((5, 4)), LAYERS[name]()])
    for variable in model.trainable_variables:
        variable.assign(tf.zeros(variable.shape))
    rng = np.random.default_rng(1)
    x, direction = rng.normal(size=(2, 3, 5, 4)).astype("float32")
    per_example = reference.gradients(model, linear_loss, x, direction)
    result = engine_for(model, np.inf)(x, direction, None, linear_loss)
    reference.assert_close(result.sums, reference.clipped_sum(per_example, np.inf))


@pytest.mark.parametrize("name", LAYERS)
def test_positions_of_unknown_number(name):
    model = keras.Sequential([keras.Input((None, 4)), LAYERS[name](), L.Activation("tanh")])
    engine = engine_for(model, 0.5)

    @tf.function(autograph=False)
    def step(x, direction):
        return engine(x, direction, None, linear_loss).sums

    rng = np.random.default_rng(2)
    x, direction = rng.normal(size=(2, 3, 6, 4)).astype("float32")
    per_example = reference.gradients(model, linear_loss, x, direction)
    spec = tf.TensorSpec((None, None, 4))
    sums = step.get_concrete_function(spec, spec)(tf.constant(x), tf.constant(direction))
    reference.assert_close(sums, reference.clipped_sum(per_example, 0.5))


@pytest.mark.parametrize("name", LAYERS)
def test_non_finite_examples_count_as_zero_and_frozen_weights_are_left_out(name):
    model = keras.Sequential([keras.Input((4,)), LAYERS[name](), LAYERS[name]()])
    model.layers[0].trainable = False
    rng = np.random.default_rng(3)
    x, direction = rng.normal(size=(2, 3, 4)).astype("float32")
    engine = engine_for(model, 0.5)
    clean = engine(x[1:], direction[1:], None, linear_loss).sums
    assert len(clean) == len(model.layers[1].trainable_variables)
    x[0, 0] = np.inf
    result = engine(x, direction, None, linear_loss)
    assert result.finite.numpy().tolist() == [False, True, True]
    reference.assert_close(result.sums, [total.numpy() for total in clean])


@pytest.mark.parametrize("name", LAYERS)
def test_the_batch_axis_is_refused(name):
    layer = LAYERS[name](axis=0)
    layer.build((4, 6))
    call = clipping.Call(layer, (tf.ones((4, 6)),), {}, None)
    with pytest.raises(ValueError, match="batch axis.*axis="):
        list(find_rule(layer).gradients(call, tf.ones((4, 6)), clipping.Context()))
