"""What `make_private` refuses by name, and the replacement of batch normalization."""

import keras
import numpy as np
import pytest

import tfdp

L = keras.layers
ops = keras.ops


@pytest.mark.parametrize(
    "layer",
    [
        L.LayerNormalization(axis=0, name="mixing"),
        L.LayerNormalization(axis=[0, 1], center=False, scale=False, name="mixing"),
        L.GroupNormalization(2, axis=0, name="mixing"),
        L.UnitNormalization(axis=0, name="mixing"),
        L.Softmax(axis=(0, 1), name="mixing"),
    ],
)
def test_layers_along_the_axis_of_the_examples_are_refused(layer):
    model = keras.Sequential([keras.Input(batch_shape=(4, 6)), layer, L.Dense(2)])
    layer.trainable = False  # Frozen ones mix as much.
    with pytest.raises(ValueError, match="'mixing'.*along the axis of the examples.*axis="):
        tfdp.make_private(model)


@pytest.mark.parametrize("kind", [L.MixUp, L.CutMix])
def test_layers_that_blend_images_are_refused(kind):
    model = keras.Sequential([keras.Input((4, 4, 3)), kind(name="mixing"), L.Flatten()])
    with pytest.raises(ValueError, match=f"'mixing' .{kind.__name__}. blends"):
        tfdp.make_private(model)


def test_other_axes_pass():
    model = keras.Sequential(
        [
            keras.Input((6, 4)),
            L.LayerNormalization(axis=[1, 2]),
            L.RMSNormalization(),
            L.UnitNormalization(axis=1),
            L.Softmax(),
        ]
    )
    tfdp.make_private(model)


def randomized(model):
    random = np.random.default_rng(0)
    model.set_weights([random.uniform(0.5, 1.5, w.shape) for w in model.get_weights()])
    return model


def nested_and_shared():
    shared = L.Dense(4, name="shared")
    inner_in = keras.Input((4,))
    inner = keras.Model(inner_in, shared(L.BatchNormalization()(shared(inner_in))), name="inner")
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    hidden = L.Concatenate()([inner(shared(a)), inner(b)])
    hidden = ops.tanh(L.BatchNormalization(scale=False)(hidden) * 2)
    return keras.Model({"a": a, "b": b}, {"y": L.Dense(2)(hidden), "z": L.Dense(1)(hidden)})


def test_shared_layers_stay_shared():
    model = randomized(nested_and_shared())
    copy = tfdp.replace_batch_normalization(model, groups=2)
    assert len(copy.trainable_variables) == len(model.trainable_variables)
    for old, new in zip(model.trainable_variables, copy.trainable_variables, strict=True):
        assert new is not old and new.name == old.name
        np.testing.assert_array_equal(old, new)
    outputs = copy({"a": np.ones((2, 4)), "b": np.ones((2, 4))})
    assert {name: value.shape for name, value in outputs.items()} == {"y": (2, 2), "z": (2, 1)}
    tfdp.make_private(copy)


def without_batch_normalization():
    scaled = L.Normalization()
    scaled.adapt(np.random.default_rng(0).normal(size=(50, 6)))
    inputs = keras.Input((6,))
    hidden = L.Dense(8, activation="gelu")(scaled(inputs))
    hidden = keras.Sequential([L.Dropout(0.1), L.Dense(8), L.PReLU()])(hidden)
    hidden = L.Reshape((2, 4))(hidden)
    hidden = L.Bidirectional(L.GRU(3, return_sequences=True))(hidden)
    hidden = L.MultiHeadAttention(2, 3)(hidden, hidden)
    return keras.Model(inputs, L.Lambda(lambda x: 2 * x)(L.Flatten()(hidden)))


def test_a_model_without_batch_normalization_is_copied():
    model = without_batch_normalization()
    x = np.random.default_rng(1).normal(size=(5, 6)).astype("float32")
    copy = tfdp.replace_batch_normalization(model)
    np.testing.assert_array_equal(model(x), copy(x))
    for old, new in zip(model.variables, copy.variables, strict=True):
        assert new is not old


def test_adapters_are_copied():
    model = keras.Sequential([keras.Input((6,)), L.Dense(4), L.BatchNormalization(), L.Dense(2)])
    for layer in (model.layers[0], model.layers[2]):
        layer.enable_lora(2)
    randomized(model)
    copy = tfdp.replace_batch_normalization(model)
    for old, new in zip(model.trainable_variables, copy.trainable_variables, strict=True):
        np.testing.assert_array_equal(old, new)


def test_settings_of_batch_normalization_are_taken_over():
    norm = L.BatchNormalization(
        axis=1,
        epsilon=0.25,
        gamma_regularizer=keras.regularizers.L2(0.5),
        beta_constraint="non_neg",
        dtype="mixed_float16",
        name="norm",
    )
    norm.trainable = False
    model = keras.Sequential([keras.Input((6, 5, 5)), norm, L.Flatten(), L.Dense(1)])
    (new,) = [
        layer
        for layer in tfdp.replace_batch_normalization(model, groups=4).layers
        if isinstance(layer, L.GroupNormalization)
    ]
    assert (new.name, new.axis, new.epsilon, new.groups) == ("norm", 1, 0.25, 3)
    assert new.gamma_regularizer.l2 == 0.5 and new.beta_constraint is not None
    assert new.dtype_policy.name == "mixed_float16"
    assert not new.trainable


class Block(L.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = L.BatchNormalization(name="hidden_norm")

    def build(self, shape):
        self.norm.build(shape)

    def call(self, inputs):
        return self.norm(inputs)


def test_what_cannot_be_replaced_is_refused():
    with pytest.raises(ValueError, match="'hidden_norm'.*'block'"):
        tfdp.replace_batch_normalization(
            keras.Sequential([keras.Input((6,)), Block(name="block"), L.Dense(1)])
        )
    with pytest.raises(ValueError, match="not built"):
        tfdp.replace_batch_normalization(keras.Sequential([L.BatchNormalization()]))
    with pytest.raises(TypeError, match="subclassed"):
        tfdp.replace_batch_normalization(tfdp.make_private(without_batch_normalization()))
    with pytest.raises(TypeError, match="`groups`"):
        tfdp.replace_batch_normalization(without_batch_normalization(), groups=2.0)
