"""Transposed convolutions."""

import keras
import pytest
from clipping.rules.layer_cases import check, few, layer_arguments, run_arguments, sizes, windows
from hypothesis import assume, given
from hypothesis import strategies as st

CLASSES = {
    1: keras.layers.Conv1DTranspose,
    2: keras.layers.Conv2DTranspose,
    3: keras.layers.Conv3DTranspose,
}


@pytest.mark.parametrize("rank", [1, 2, 3])
@few(max_examples=20)
@given(data=st.data(), layer=layer_arguments, run=run_arguments)
def test_transposed_convolution(rank, data, layer, run):
    window, lengths = data.draw(windows(rank, dilated=False))  # See `test_dilated`.
    if min(window["strides"]) > 1 and data.draw(st.booleans(), "with output padding"):
        # TensorFlow has no transposed convolution to other sizes than these.
        window["output_padding"] = tuple(
            data.draw(st.integers(0 if size % 2 or window["padding"] == "valid" else 1, stride - 1))
            for size, stride in zip(window["kernel_size"], window["strides"], strict=True)
        )
    try:
        layer = CLASSES[rank](data.draw(sizes), **window, **layer)
    except ValueError:
        assume(0 not in window.get("output_padding", ()))  # Older Keras refuses zeros there.
        raise
    check(layer, (*lengths, data.draw(sizes)), **run)


def test_late_layers_take_gram_norms():
    assert check(keras.layers.Conv2DTranspose(40, 2), (3, 3, 40)) == ["gram", "sum"]


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_dilated(rank, padding):
    # On a CPU only when compiled.
    layer = CLASSES[rank](3, (3, 2)[:rank], dilation_rate=(2, 3)[:rank], padding=padding)
    check(layer, (*(5, 4)[:rank], 2), loop=False, compiled=True)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_channels_first(rank):
    layer = CLASSES[rank](
        3, 2, strides=(2, 1, 3)[:rank], data_format="channels_first", use_bias=False
    )
    check(layer, (2, *(4, 3, 2)[:rank]), loop=False, compiled=True)
