"""Configurations of layers and optimizers from hostile files: an object that works, or an error."""

import warnings

import keras
import pytest
from fuzzing import changed, fuzzed
from hypothesis import given
from hypothesis import strategies as st

import tfdp

# Numbers that could be had, but would fill the memory, are left out.
HOSTILE = (
    *(
        None,
        True,
        0,
        -1,
        0.5,
        float("nan"),
        float("inf"),
        "",
        "x",
        "Lambda",
        [],
        {},
        [None],
        10**30,
    ),
    *({"class_name": "Lambda", "config": {}}, {"module": "os", "class_name": "system"}),
)
# Keras reads these itself, and not all that it raises is a TypeError or ValueError.
KERAS_OWN = {"name", "trainable", "dtype"}
OBJECTS = {
    "Deslant2D": lambda: tfdp.layers.Deslant2D(),
    "PatchFeatures2D": lambda: tfdp.layers.PatchFeatures2D(4),
    "PositionEmbedding": lambda: tfdp.layers.PositionEmbedding(),
    "PrincipalScaling": lambda: tfdp.layers.PrincipalScaling(2),
    "RandomApply": lambda: tfdp.layers.RandomApply(keras.layers.RandomFlip(), 0.5),
    "RandomShift": lambda: tfdp.layers.RandomShift(2),
    "SkipInit": lambda: tfdp.layers.SkipInit(),
    "TemperedSigmoid": lambda: tfdp.layers.TemperedSigmoid(),
    "WeightStandardizedConv2D": lambda: tfdp.layers.WeightStandardizedConv2D(4, 3),
    **{
        name: lambda name=name: getattr(tfdp.optimizers, name)(1.0, 1.0, learning_rate=0.1)
        for name in (
            "VectorizedDPKerasSGDOptimizer",
            "VectorizedDPKerasAdamOptimizer",
            "VectorizedDPKerasAdagradOptimizer",
        )
    },
}


def test_all_layers_are_here():
    layers = {
        name
        for name in tfdp.layers.__all__
        if isinstance(getattr(tfdp.layers, name), type)
        and issubclass(getattr(tfdp.layers, name), keras.layers.Layer)
    }
    assert layers - {"Scattering2D"} <= set(OBJECTS)


@pytest.mark.parametrize("name", OBJECTS)
@fuzzed(30)
@given(data=st.data())
def test_changed_configurations(name, data):
    made = OBJECTS[name]()
    kind = type(made)
    config = made.get_config()
    own = {k: v for k, v in config.items() if k not in KERAS_OWN and not isinstance(v, dict)}
    config = {k: v for k, v in config.items() if k not in own}
    config |= data.draw(changed(own, hostile=HOSTILE))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = kind.from_config(config)
    except (TypeError, ValueError) as error:
        assert str(error)
    else:
        assert isinstance(found, kind)
        kind.from_config(found.get_config())
