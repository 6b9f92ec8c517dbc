"""Depthwise and separable convolutions."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from clipping.rules.layer_cases import check, few, layer_arguments, run_arguments, sizes, windows
from hypothesis import given
from hypothesis import strategies as st

DEPTHWISE = {1: keras.layers.DepthwiseConv1D, 2: keras.layers.DepthwiseConv2D}
SEPARABLE = {1: keras.layers.SeparableConv1D, 2: keras.layers.SeparableConv2D}


@pytest.mark.parametrize("rank", [1, 2])
@few(max_examples=20)
@given(data=st.data(), layer=layer_arguments, run=run_arguments)
def test_depthwise_convolution(rank, data, layer, run):
    # TensorFlow has no depthwise convolution of unequal strides.
    window, lengths = data.draw(windows(rank, equal_strides=True))
    layer = DEPTHWISE[rank](depth_multiplier=data.draw(sizes), **window, **layer)
    check(layer, (*lengths, data.draw(sizes)), **run)


@pytest.mark.parametrize("rank", [1, 2])
@few(max_examples=20)
@given(data=st.data(), layer=layer_arguments, run=run_arguments)
def test_separable_convolution(rank, data, layer, run):
    window, lengths = data.draw(windows(rank, equal_strides=True))
    layer = SEPARABLE[rank](data.draw(sizes), depth_multiplier=data.draw(sizes), **window, **layer)
    check(layer, (*lengths, data.draw(sizes)), **run)


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("loop", [True, False])
def test_strides_with_dilation(data_format, loop):
    arguments = {"strides": (2, 1), "dilation_rate": (1, 2), "padding": "same"}
    arguments |= {"data_format": data_format, "use_bias": data_format == "channels_last"}
    shape = (9, 6, 3) if data_format == "channels_last" else (3, 9, 6)
    try:
        layer = keras.layers.DepthwiseConv2D((3, 2), depth_multiplier=2, **arguments)
    except ValueError as error:
        pytest.skip(f"older Keras refuses this layer: {error}")
    assert check(layer, shape, loop=loop)[0] == "sum by kernel offset"
    check(keras.layers.SeparableConv2D(2, (3, 2), **arguments), shape, loop=loop)


@pytest.mark.parametrize("loop", [True, False])
@pytest.mark.parametrize("use_bias", [True, False])
def test_channels_first(loop, use_bias):
    arguments = {"data_format": "channels_first", "use_bias": use_bias}
    # As wide as it has filters: Keras then takes the bias for one of columns.
    layer = keras.layers.SeparableConv2D(4, (3, 2), **arguments)
    try:
        layer(np.zeros((1, 2, 6, 5), "float32"))
    except tf.errors.UnimplementedError as error:
        pytest.skip(f"older Keras cannot run this layer on a CPU: {error}")
    assert ("run again" in check(layer, (2, 6, 5), loop=loop)[0]) == use_bias
    if not use_bias:
        check(keras.layers.DepthwiseConv1D(3, **arguments), (2, 6), loop=loop)
        check(keras.layers.DepthwiseConv2D((3, 2), **arguments), (2, 6, 5), loop=loop)
        check(keras.layers.SeparableConv1D(4, 3, **arguments), (2, 6), loop=loop)


def test_late_separable_layers_take_gram_norms():
    methods = check(keras.layers.SeparableConv2D(40, 2), (4, 4, 40))
    assert methods == ["gram", "example loop", "sum"]


@pytest.mark.parametrize("frozen", ["depthwise_kernel", "pointwise_kernel"])
def test_one_part_frozen(frozen):
    layer = keras.layers.SeparableConv2D(2, 2)
    layer.build((None, 5, 4, 3))
    getattr(layer, frozen).trainable = False
    assert len(check(layer, (5, 4, 3))) == 2


def test_compiled():
    layer = keras.layers.SeparableConv2D(2, (3, 2), strides=2, depth_multiplier=2, padding="same")
    check(layer, (5, 4, 3), loop=False, compiled=True)
