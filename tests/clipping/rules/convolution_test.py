"""Ordinary and grouped convolutions, and their LoRA factors."""

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
from hypothesis import assume, given
from hypothesis import strategies as st

from tfdp.clipping.rules.convolution import ConvolutionRule

CLASSES = {1: keras.layers.Conv1D, 2: keras.layers.Conv2D, 3: keras.layers.Conv3D}


def convolution(rank, data, groups=1, **arguments):
    window, lengths = data.draw(windows(rank))
    if rank == 1 and data.draw(st.booleans(), "causal"):
        window["padding"] = "causal"
    layer = CLASSES[rank](groups * data.draw(sizes), groups=groups, **window, **arguments)
    channels = groups * data.draw(sizes)
    # There TensorFlow itself (2.21, oneDNN, CPUs with AVX-512 VNNI) reads beyond the image.
    down, across = (*window["strides"], 1, 1)[:2]
    assume(rank != 2 or channels > 1 or down >= across)
    return layer, (*lengths, channels)


@pytest.mark.parametrize("rank", [1, 2, 3])
@few(max_examples=20)
@given(data=st.data(), layer=layer_arguments, run=run_arguments)
def test_convolution(rank, data, layer, run):
    check(*convolution(rank, data, **layer), **run)


@pytest.mark.parametrize("rank", [1, 2, 3])
@few(max_examples=4)  # Keras compiles a grouped convolution at each call.
@given(data=st.data(), layer=layer_arguments, run=run_arguments)
def test_grouped_convolution(rank, data, layer, run):
    check(*convolution(rank, data, data.draw(st.integers(2, 3)), **layer), **run)


@pytest.mark.parametrize("rank", [1, 2, 3])
@few(max_examples=15)
@given(data=st.data(), layer=layer_arguments, run=run_arguments)
def test_lora_factors(rank, data, layer, run):
    check(*convolution(rank, data, **layer), lora_rank=data.draw(sizes), **run)


@few(max_examples=3)
@given(data=st.data(), layer=layer_arguments, run=run_arguments)
def test_lora_factors_of_a_grouped_convolution(data, layer, run):
    check(*convolution(2, data, 2, **layer), lora_rank=data.draw(sizes), **run)


def test_late_layers_take_gram_norms():
    assert check(keras.layers.Conv2D(40, 2), (4, 4, 30)) == ["gram", "sum"]
    assert check(keras.layers.Conv1D(80, 3, groups=2), (5, 60)) == ["gram by group", "sum"]
    layer = keras.layers.Conv2D(40, 2)
    assert check(layer, (3, 3, 40), lora_rank=9) == ["gram", "gram", "sum"]


def test_early_layers_take_one_example_after_another_where_that_is_faster():
    assert check(keras.layers.Conv2D(4, 3), (9, 9, 2))[0] == "example loop"
    assert check(keras.layers.Conv2D(4, 3), (9, 9, 2), loop=False)[0] == "instantiate"
    assert check(keras.layers.Conv2D(4, 3, dilation_rate=2), (9, 9, 2))[0] == "instantiate"
    assert check(keras.layers.Conv3D(4, 3), (5, 5, 5, 2))[0] == "instantiate"


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_kernels_too_large_for_slices(padding):
    layer = keras.layers.Conv2D(3, (16, 12), strides=(8, 12), padding=padding)
    check(layer, (25, 24, 2), loop=False)
    check(keras.layers.Conv1D(3, 150, strides=70, padding=padding), (400, 2), loop=False)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_channels_first(rank):
    layer = CLASSES[rank](
        3,
        (3, 2, 1)[:rank],
        strides=(2, 1, 1)[:rank],
        padding="same",
        data_format="channels_first",
        use_bias=False,
    )
    check(layer, (2, 5, 4, 3)[: rank + 1], loop=False, compiled=True)


def test_causal_channels_first():
    arguments = {"padding": "causal", "dilation_rate": 2, "data_format": "channels_first"}
    check(keras.layers.Conv1D(3, 3, use_bias=False, **arguments), (2, 7), loop=False, compiled=True)


@pytest.mark.parametrize("loop", [True, False])
def test_sizes_that_are_not_known_when_tracing(loop):
    model = keras.Sequential(
        [
            keras.Input((None, None, 2)),
            keras.layers.Conv2D(3, (3, 2), strides=(2, 1), padding="same"),
            keras.layers.Conv2D(2, 2, dilation_rate=2),
        ]
    )
    x = np.random.default_rng(0).normal(size=(3, 9, 7, 2)).astype("float32")
    y = np.random.default_rng(1).normal(size=(3, *model(x).shape[1:])).astype("float32")
    engine = engine_for(model, loop)
    unknown = tf.TensorSpec((None, None, None, 2), "float32")

    @tf.function(input_signature=[unknown, unknown], autograph=False)
    def run(x, y):
        return engine(x, y, None, loss).sums

    per_example = reference.gradients(model, loss, x, y)
    reference.assert_close(run(x, y), reference.clipped_sum(per_example, CLIP))


def test_a_layer_used_twice():
    shared = keras.layers.Conv2D(3, 3, padding="same", activation="tanh")
    inputs = keras.Input((5, 4, 3))
    model = keras.Model(inputs, shared(shared(inputs)) + inputs)
    x, y = np.random.default_rng(0).normal(size=(2, 4, 5, 4, 3)).astype("float32")
    engine = engine_for(model)
    per_example = reference.gradients(model, loss, x, y)
    sums = engine(tf.constant(x), tf.constant(y), None, loss).sums
    reference.assert_close(sums, reference.clipped_sum(per_example, CLIP))


def test_norms_in_mixed_precision_are_summed_in_float32(mixed_precision):
    layer = keras.layers.Conv2D(3, 3)
    model = keras.Sequential([keras.Input((20, 20, 2)), layer])
    x = np.full((1, 20, 20, 2), 20.0, "float32")
    y = np.full((1, 18, 18, 3), 20.0, "float32")
    layer.kernel.assign(tf.zeros_like(layer.kernel))
    engine = engine_for(model)
    norms = engine(
        tf.constant(x), tf.constant(y), None, lambda y, p, w: loss(y, tf.cast(p, "float32"))
    ).norms
    # 18^2 positions of 20 * 20 are beyond float16; so is the square of anything above 255.
    kernel, bias = 18**2 * 20.0 * 20, 18**2 * 20.0
    np.testing.assert_allclose(norms, [np.sqrt(54 * kernel**2 + 3 * bias**2)], rtol=1e-3)


def test_what_the_rule_refuses_goes_to_the_fallback():
    class Standardized(keras.layers.Conv2D):
        def convolution_op(self, inputs, kernel):
            return super().convolution_op(inputs, kernel - keras.ops.mean(kernel))

    class Doubled(keras.layers.Conv2D):
        @property
        def kernel(self):
            return 2 * self._kernel

    for layer in (Standardized(2, 3), Doubled(2, 3)):
        assert "overrides" in ConvolutionRule().refusal(layer)
        assert all("run again" in method for method in check(layer, (5, 5, 2)))
    check(keras.layers.Conv2D(2, 3, activation=keras.layers.PReLU()), (5, 5, 2))
