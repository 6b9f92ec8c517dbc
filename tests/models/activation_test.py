"""Tests of how activations are made into layers."""

import keras
import pytest

import tfdp
from tfdp.models.activation import new_activation_layer


@pytest.mark.parametrize("build", [tfdp.models.mnist_cnn, tfdp.models.digits_mlp])
def test_a_layer_is_copied_for_each_use_and_left_alone(build):
    given = keras.layers.PReLU(name="mine")
    first, second = build(given), build(given)
    copies = [
        layer
        for model in (first, second)
        for layer in model.layers
        if isinstance(layer, keras.layers.PReLU)
    ]
    assert len({id(layer) for layer in copies} | {id(given)}) == len(copies) + 1
    assert len({id(weight) for layer in copies for weight in layer.weights}) == len(copies)
    assert not given.built


def test_a_copy_keeps_the_configuration():
    copy = new_activation_layer(tfdp.layers.TemperedSigmoid(1.58, 3.0, 0.71))
    assert (copy.scale, copy.temperature, copy.offset) == (1.58, 3.0, 0.71)


@pytest.mark.parametrize("activation", [3, None])
def test_what_is_no_activation_is_refused(activation):
    with pytest.raises(ValueError, match=f"Received: activation={activation}$"):
        new_activation_layer(activation)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="tanhh"):
        new_activation_layer("tanhh")
