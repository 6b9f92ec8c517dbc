"""Convolution with standardized weights."""

import keras
import numpy as np
import one_example_at_a_time as reference
import pytest
import tensorflow as tf
from clipping.rules.layer_cases import (
    CLIP,
    check,
    engine_for,
    few,
    layer_arguments,
    loss,
    run_arguments,
    sizes,
    windows,
)
from hypothesis import given
from hypothesis import strategies as st

from tfdp import clipping, sampling
from tfdp.clipping.rules.standardized_convolution import (
    StandardizedConvolutionRule,
    StandardizedFilters,
)
from tfdp.layers import WeightStandardizedConv2D


def convolution(data, groups=1, **arguments):
    window, lengths = data.draw(windows(2))
    # Standardization leaves nothing of the gradient of one or two weights but rounding.
    channels = data.draw(sizes if np.prod(window["kernel_size"]) > 2 else st.integers(3, 4))
    layer = WeightStandardizedConv2D(
        groups * data.draw(sizes),
        groups=groups,
        use_gain=data.draw(st.booleans(), "use_gain"),
        **window,
        **arguments,
    )
    return layer, (*lengths, groups * channels)


@few(max_examples=25)
@given(data=st.data(), layer=layer_arguments, run=run_arguments)
def test_early_layers(data, layer, run):
    check(*convolution(data, **layer), **run)


@few(max_examples=4)  # Keras compiles a grouped convolution at each call.
@given(data=st.data(), layer=layer_arguments, run=run_arguments)
def test_grouped_convolution(data, layer, run):
    check(*convolution(data, data.draw(st.integers(2, 3)), **layer), **run)


@few(max_examples=15)
@given(
    data=st.data(),
    layer=layer_arguments,
    run=run_arguments,
    padding=st.sampled_from(["same", "valid"]),
)
def test_late_layers(data, layer, run, padding):
    size = data.draw(st.sampled_from([(1, 1), (2, 2), (3, 2), (3, 3)]))
    strides = data.draw(st.integers(1, 2))
    convolution = WeightStandardizedConv2D(
        40, size, strides=strides, padding=padding, use_gain=data.draw(st.booleans()), **layer
    )
    methods = check(convolution, (3, 3, 40), **run)
    assert methods[0] == "gram, projected"


@pytest.mark.parametrize("loop", [True, False])
def test_late_dilated_layers(loop):
    layer = WeightStandardizedConv2D(40, 2, dilation_rate=2, padding="same")
    assert check(layer, (3, 3, 40), loop=loop)[0] == "gram, projected"


@pytest.mark.parametrize("shape", [(9, 9, 2), (3, 3, 40)])
def test_a_batch_without_examples(shape):
    if tf.nn.conv2d(tf.zeros([0, 3, 3, 1]), tf.zeros([2, 2, 1, 1]), 1, "VALID").shape[1] != 2:
        pytest.skip("on this CPU TensorFlow's own convolution of no images has a wrong shape")
    model = keras.Sequential([keras.Input(shape), WeightStandardizedConv2D(40, 2)])
    for loop in (True, False):
        x, y = tf.zeros([0, *shape]), tf.zeros([0, *model.output_shape[1:]])
        result = engine_for(model, loop)(x, y, None, loss)
        assert result.norms.shape == (0,)
        for total, variable in zip(result.sums, model.trainable_variables, strict=True):
            assert total.shape == variable.shape and not total.numpy().any()


@pytest.mark.parametrize("channels", [1, 2, 15, 16])
def test_filters_of_few_weights_are_instantiated(channels):
    """Of a gradient of one or two weights the standardization leaves nothing."""
    methods = check(WeightStandardizedConv2D(64, 1, use_bias=False), (1, 1, channels))
    assert ("gram" in methods[0]) == (channels >= 16)


def in_float64(model):
    wide = keras.models.clone_model(
        model,
        clone_function=lambda old: type(old).from_config({**old.get_config(), "dtype": "float64"}),
    )
    wide.set_weights(model.get_weights())
    return wide


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_norms_of_images_that_are_almost_constant(padding):
    """What all inputs have in common is most of the gradient, and no part of it counts."""
    layer = WeightStandardizedConv2D(60, 3, padding=padding, use_bias=False)
    model = keras.Sequential([keras.Input((4, 4, 30)), layer])
    rng = np.random.default_rng(0)
    x = 100 + rng.normal(size=(4, 4, 4, 30)).astype("float32")
    y = rng.normal(size=(4, *model.output_shape[1:])).astype("float32")

    def linear(y, p, w):
        return tf.reduce_sum(tf.cast(p, y.dtype) * y, [1, 2, 3])

    engine = engine_for(model)
    norms = engine(tf.constant(x), tf.constant(y), None, linear).norms
    assert engine.reports[0].method == "gram, projected"
    wide = in_float64(model)
    per_example = reference.gradients(wide, linear, x.astype("float64"), y.astype("float64"))
    np.testing.assert_allclose(norms, reference.norms(per_example), rtol=1e-5)


def test_an_image_that_looks_like_a_filter_cannot_hide_its_norm():
    """Nearly all of its gradient is projected out: rounding must not make the rest seem shorter."""
    layer = WeightStandardizedConv2D(60, 3, use_gain=False, use_bias=False)
    model = keras.Sequential([keras.Input((3, 3, 30)), layer])
    rng = np.random.default_rng(0)
    filters = StandardizedFilters.of(layer, tf.float64)
    x = 1000 * np.stack([filters.unit[..., 0]] * 20) + 0.01 * rng.normal(size=(20, 3, 3, 30))
    y = np.zeros((20, 1, 1, 60))
    y[..., 0] = 1.0

    def linear(y, p, w):
        return tf.reduce_sum(tf.cast(p, y.dtype) * y, [1, 2, 3])

    engine = engine_for(model)
    x, y = x.astype("float32"), y.astype("float32")
    norms = engine(tf.constant(x), tf.constant(y), None, linear).norms
    assert engine.reports[0].method == "gram, projected"
    wide = in_float64(model)
    per_example = reference.gradients(wide, linear, x.astype("float64"), y.astype("float64"))
    assert np.all(norms >= 0.999 * reference.norms(per_example))


def test_gains_of_zero_hide_no_gradient():
    for shape in ((9, 9, 2), (3, 3, 40)):
        layer = WeightStandardizedConv2D(40, 2)
        model = keras.Sequential([keras.Input(shape), layer])
        layer.gain.assign(np.resize([0.0, 2.0], 40))
        rng = np.random.default_rng(0)
        x = rng.normal(size=(3, *shape)).astype("float32")
        y = rng.normal(size=(3, *model.output_shape[1:])).astype("float32")
        per_example = reference.gradients(model, loss, x, y)
        result = engine_for(model)(tf.constant(x), tf.constant(y), None, loss)
        np.testing.assert_allclose(result.norms, reference.norms(per_example), rtol=1e-5)
        reference.assert_close(result.sums, reference.clipped_sum(per_example, CLIP))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_non_finite_example_counts_as_zero(bad):
    model = keras.Sequential([keras.Input((3, 3, 40)), WeightStandardizedConv2D(40, 2)])
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 3, 3, 40)).astype("float32")
    y = rng.normal(size=(3, 2, 2, 40)).astype("float32")
    x[1, 1, 1, 5] = bad
    engine = engine_for(model)
    result = engine(tf.constant(x), tf.constant(y), None, loss)
    assert result.finite.numpy().tolist() == [True, False, True]
    clean = engine(tf.constant(x[::2]), tf.constant(y[::2]), None, loss)
    reference.assert_close(result.sums, [s.numpy() for s in clean.sums])


@pytest.mark.parametrize("shape", [(9, 9, 2), (2, 2, 60), (3, 3, 40)])
@pytest.mark.parametrize("loop", [True, False])
def test_views_of_an_example_are_averaged_before_clipping(shape, loop):
    model = keras.Sequential([keras.Input(shape), WeightStandardizedConv2D(60, 2)])
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *shape)).astype("float32")
    y = rng.normal(size=(2, *model.output_shape[1:])).astype("float32")
    signs = tf.reshape(tf.constant([1.0, -0.5, 2.0] * 2), (6, 1, 1, 1))
    views = sampling.Views(lambda rows: rows * signs, 3)
    rows = reference.gradients(model, loss, *(t.numpy() for t in views(x, y, None)[:2]))
    per_example = [row.reshape(2, 3, *row.shape[1:]).mean(1) for row in rows]
    clipper, plan = clipping.ClipBound(CLIP).resolve(model), clipping.make_plan(model)
    engine = clipping.RecordingEngine(model, clipper, plan, clipping.Context(loop=loop), views)
    result = engine(tf.constant(x), tf.constant(y), None, loss)
    np.testing.assert_allclose(result.norms, reference.norms(per_example), rtol=1e-5)
    reference.assert_close(result.sums, reference.clipped_sum(per_example, CLIP))


def test_a_layer_used_twice():
    shared = WeightStandardizedConv2D(36, 3, padding="same", activation="tanh")
    inputs = keras.Input((3, 3, 36))
    model = keras.Model(inputs, shared(shared(inputs)) + inputs)
    x, y = np.random.default_rng(0).normal(size=(2, 4, 3, 3, 36)).astype("float32")
    per_example = reference.gradients(model, loss, x, y)
    sums = engine_for(model)(tf.constant(x), tf.constant(y), None, loss).sums
    reference.assert_close(sums, reference.clipped_sum(per_example, CLIP))


@pytest.mark.parametrize("loop", [True, False])
def test_sizes_that_are_not_known_when_tracing(loop):
    model = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            WeightStandardizedConv2D(3, (3, 2), strides=(2, 1), padding="same"),
            WeightStandardizedConv2D(2, 2, dilation_rate=2),
        ]
    )
    x = np.random.default_rng(0).normal(size=(3, 9, 7, 3)).astype("float32")
    y = np.random.default_rng(1).normal(size=(3, *model(x).shape[1:])).astype("float32")
    engine = engine_for(model, loop)
    unknown = tf.TensorSpec((None, None, None, None), "float32")

    @tf.function(input_signature=[unknown, unknown], autograph=False)
    def run(x, y):
        x = tf.ensure_shape(x, (None, None, None, 3))
        return engine(x, y, None, loss).sums

    per_example = reference.gradients(model, loss, x, y)
    reference.assert_close(run(x, y), reference.clipped_sum(per_example, CLIP))


def test_channels_first():
    layer = WeightStandardizedConv2D(
        3, 2, strides=(2, 1), padding="same", data_format="channels_first", use_bias=False
    )
    check(layer, (2, 5, 4), loop=False, compiled=True)


@pytest.mark.parametrize("shape", [(12, 12, 3), (3, 3, 40)])
def test_mixed_precision_differentiates_the_rounded_weights(mixed_precision, shape):
    layer = WeightStandardizedConv2D(40, 2, dtype="mixed_bfloat16")
    model = keras.Sequential(
        [keras.Input(shape), layer, keras.layers.Activation("linear", dtype="float32")]
    )
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, *shape)).astype("float32")
    y = rng.normal(size=(3, *model.output_shape[1:])).astype("float32")
    per_example = reference.gradients(model, loss, x, y)
    result = engine_for(model)(tf.constant(x), tf.constant(y), None, loss)
    np.testing.assert_allclose(result.norms, reference.norms(per_example), rtol=2e-2)


def test_frozen_parts():
    layer = WeightStandardizedConv2D(3, 2)
    model = keras.Sequential([keras.Input((4, 4, 3)), layer])
    layer.kernel.trainable = False
    x, y = np.ones((2, 4, 4, 3), "float32"), np.ones((2, 3, 3, 3), "float32")
    engine = engine_for(model)
    per_example = reference.gradients(model, loss, x, y)
    sums = engine(tf.constant(x), tf.constant(y), None, loss).sums
    reference.assert_close(sums, reference.clipped_sum(per_example, CLIP))
    assert [report.variable.rpartition("/")[2] for report in engine.reports] == ["gain", "bias"]


def test_what_the_rule_refuses_goes_to_the_fallback():
    class Doubled(WeightStandardizedConv2D):
        def convolution_op(self, inputs, kernel):
            return super().convolution_op(inputs, 2 * kernel)

    class Halved(WeightStandardizedConv2D):
        @property
        def kernel(self):
            return self._kernel / 2

    for layer in (Doubled(2, 3), Halved(2, 3)):
        assert "overrides" in StandardizedConvolutionRule().refusal(layer)
        assert all("run again" in method for method in check(layer, (5, 5, 2)))
    methods = check(WeightStandardizedConv2D(4, 3), (5, 5, 3), lora_rank=2)
    assert methods == ["run again (vectorized_map)"] * 4
    check(WeightStandardizedConv2D(2, 3, activation=keras.layers.PReLU()), (5, 5, 2))
