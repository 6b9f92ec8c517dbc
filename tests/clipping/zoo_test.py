"""Whole models of every kind against one example at a time."""

import keras
import numpy as np
import one_example_at_a_time as reference
import pytest
import tensorflow as tf

from tfdp import clipping, models, sampling

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
L = keras.layers


def sequence_model(*layers):
    return keras.Sequential([keras.Input((6, 5)), *layers, L.Flatten(), L.Dense(3)])


def attention(lora=False):
    inputs = keras.Input((6, 8))
    hidden = L.LayerNormalization()(inputs)
    hidden = inputs + L.MultiHeadAttention(2, 4)(hidden, hidden)
    hidden = L.GroupQueryAttention(4, 4, 2)(hidden, hidden)
    model = keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling1D()(hidden)))
    if lora:
        for layer in model._flatten_layers():
            if isinstance(layer, L.EinsumDense):
                layer.enable_lora(2)
            elif isinstance(layer, (L.LayerNormalization, L.Dense)):
                layer.trainable = False
    return model


def text_transformer():
    tokens = keras.Input((7,), dtype="int32")
    embedded = L.Embedding(11, 8, mask_zero=True)(tokens)
    hidden = L.MultiHeadAttention(2, 4)(embedded, embedded)
    hidden = L.LayerNormalization()(embedded + hidden)
    hidden = hidden + L.Dense(8)(L.Dense(16, activation="gelu")(hidden))
    return keras.Model(tokens, L.Dense(3)(L.GlobalAveragePooling1D()(hidden)))


def residual_cnn():
    inputs = keras.Input((8, 8, 4))
    hidden = L.GroupNormalization(2)(L.Activation("relu")(inputs))
    hidden = L.Conv2D(8, 3, padding="same", use_bias=False)(hidden)
    shortcut = L.Conv2D(8, 1)(inputs)
    hidden = L.DepthwiseConv2D(3, padding="same")(hidden + shortcut)
    hidden = L.SeparableConv2D(6, 3)(hidden)
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(hidden)))


def dense_lora():
    model = keras.Sequential(
        [keras.Input((6, 5)), L.Dense(7, activation="tanh"), L.Flatten(), L.Dense(3)]
    )
    for layer in model.layers:
        if isinstance(layer, L.Dense):
            layer.enable_lora(2)
    return model


def tied_autoencoder():
    class Tied(keras.Model):
        def __init__(self):
            super().__init__()
            self.embedding = L.Embedding(5, 4)
            self.mix = L.Dense(4, activation="tanh")

        def call(self, tokens):
            hidden = self.mix(self.embedding(tokens)) + self.embedding(4 - tokens)
            return self.mix(tf.reduce_mean(hidden, 1))[:, :3]

    model = Tied()
    model(np.zeros((1, 6), "int32"))
    return model


class Affine(keras.layers.Layer):
    """A user's own layer, with a layer inside it."""

    def build(self, shape):
        self.inner = L.Dense(shape[-1])
        self.inner.build(shape)
        self.offset = self.add_weight(shape=(shape[-1],), name="offset")

    def call(self, inputs):
        return tf.tanh(self.inner(inputs) * self.offset)


class Doubled(keras.layers.Dense):
    """A subclass whose own call its parent's rule knows nothing of."""

    def call(self, inputs, training=None):
        return 2 * super().call(inputs)


def conv1d_model():
    return keras.Sequential(
        [
            keras.Input((9, 4)),
            L.Conv1D(6, 3, padding="causal", dilation_rate=2, activation="tanh"),
            L.Conv1D(6, 2, strides=2, groups=2),
            L.PReLU(),
            L.GlobalMaxPooling1D(),
            L.Dense(3),
        ]
    )


def unet():
    inputs = keras.Input((8, 8, 3))
    down = L.Conv2D(6, 3, strides=2, padding="same", activation="swish")(inputs)
    middle = L.GroupNormalization(3)(L.Conv2D(6, 3, padding="same")(down))
    up = L.Conv2DTranspose(4, 3, strides=2, padding="same")(middle)
    joined = L.Concatenate()([inputs, up])
    return keras.Model(inputs, L.Dense(3)(L.GlobalAveragePooling2D()(joined)))


def video():
    return keras.Sequential(
        [keras.Input((4, 5, 5, 2)), L.Conv3D(3, 2, activation="tanh"), L.Flatten(), L.Dense(3)]
    )


def partly_frozen():
    model = residual_cnn()
    for layer in model.layers[2:5]:
        layer.trainable = False
    return model


ZOO = {
    "attention": attention,
    "attention_lora": lambda: attention(lora=True),
    "text_transformer": text_transformer,
    "residual_cnn": residual_cnn,
    "partly_frozen": partly_frozen,
    "dense_lora": dense_lora,
    "tied_autoencoder": tied_autoencoder,
    "conv1d": conv1d_model,
    "unet": unet,
    "video": video,
    "lstm": lambda: sequence_model(L.LSTM(4)),
    "gru": lambda: sequence_model(L.GRU(4, return_sequences=True)),
    "simple_rnn_masked": lambda: sequence_model(L.Masking(), L.SimpleRNN(4)),
    "bidirectional": lambda: sequence_model(L.Bidirectional(L.LSTM(3))),
    "time_distributed": lambda: sequence_model(L.TimeDistributed(L.Dense(4, activation="tanh"))),
    "users_layer": lambda: sequence_model(Affine()),
    "users_subclass": lambda: sequence_model(Doubled(4)),
    "einsum_dense": lambda: sequence_model(
        L.EinsumDense("...x,xy->...y", 4, bias_axes="y"),
        L.EinsumDense("bty,yxz->btzx", (6, 2, 3), activation="tanh", bias_axes="zx"),
    ),
    "activations_with_weights": lambda: sequence_model(
        L.Conv1D(4, 2, activation=L.PReLU()), L.Dense(4, activation=L.PReLU())
    ),
    "dropout": lambda: sequence_model(L.Dropout(0.0), L.Dense(4), L.SpatialDropout1D(0.0)),
    "wide_resnet": lambda: models.wide_resnet(
        10, 1, input_shape=(8, 8, 3), num_classes=3, groups=4
    ),
    "wide_resnet_standardized": lambda: models.wide_resnet(
        10,
        2,
        input_shape=(8, 8, 3),
        num_classes=3,
        shortcut="relu_norm",
        weight_standardization=True,
    ),
    "nf_resnet": lambda: models.nf_resnet50(
        input_shape=(16, 16, 3), num_classes=3, depths=(2, 1), widths=(8, 32), stem_width=4
    ),
    "vit": lambda: models.vit_small(
        input_shape=(8, 12, 3), num_classes=3, patch_size=4, dim=12, depth=2, heads=3
    ),
}


def inputs_of(model, length, rng):
    if not hasattr(model, "inputs"):
        return rng.integers(0, 5, (length, 6)).astype("int32")
    shape = model.inputs[0].shape[1:]
    if "int" in model.inputs[0].dtype:
        return rng.integers(0, 11, (length, *shape)).astype("int32")
    x = rng.normal(size=(length, *shape)).astype("float32")
    if len(shape) == 2:
        x[0, -2:] = 0  # Steps that a masking layer skips.
    return x


@pytest.mark.parametrize("name", ZOO)
def test_clipped_sum_is_that_of_one_example_at_a_time(name):
    keras.utils.set_random_seed(5)
    model = ZOO[name]()
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:  # Initial zeros and ones hide mistakes.
        variable.assign(variable + 0.1 * rng.normal(size=variable.shape))
    x, y = inputs_of(model, 5, rng), rng.integers(0, 3, 5)
    per_example = reference.gradients(model, LOSS, x, y)
    clip = float(np.median(reference.norms(per_example)))
    loss_fn = clipping.PerExampleLoss(LOSS)
    for loop in (True, False):
        plan = clipping.make_plan(model)
        engine = clipping.RecordingEngine(
            model, clipping.ClipBound(clip).resolve(model), plan, clipping.Context(loop=loop)
        )
        step = tf.function(lambda a, b, engine=engine: vars(engine(a, b, None, loss_fn)))
        result = step(tf.constant(x), tf.constant(y))
        np.testing.assert_allclose(result["norms"], reference.norms(per_example), rtol=2e-5)
        reference.assert_close(result["sums"], reference.clipped_sum(per_example, clip))
    covered = {id(v) for layer in plan.rules for v in layer.trainable_variables}
    assert covered == {id(v) for v in model.trainable_variables}


def differing_rows(x):
    """Stands in for an augmentation: rows are changed by their place."""
    place = tf.range(tf.shape(x)[0]) % 4
    place = tf.reshape(place, [-1] + [1] * (x.shape.rank - 1))
    if x.dtype.is_integer:
        return (x + tf.cast(place, x.dtype)) % 5
    return x * (1 + tf.cast(place, x.dtype) / 4)


@pytest.mark.parametrize(
    "name, loop",
    [
        *(("attention", True), ("attention_lora", True), ("text_transformer", True)),
        *(("residual_cnn", True), ("residual_cnn", False), ("tied_autoencoder", True)),
        *(("conv1d", True), ("unet", True), ("lstm", True), ("einsum_dense", True)),
    ],
)
def test_views_of_an_example_are_averaged_before_clipping(name, loop):
    keras.utils.set_random_seed(5)
    model = ZOO[name]()
    rng = np.random.default_rng(0)
    x, y = inputs_of(model, 2, rng), rng.integers(0, 3, 2)
    weight = rng.uniform(0.5, 2, 2).astype("float32")
    data = tuple(map(tf.constant, (x, y, weight)))
    views = sampling.Views(differing_rows, 3)
    rows = reference.gradients(model, LOSS, *(t.numpy() for t in views(*data)))
    per_example = [row.reshape(2, 3, *row.shape[1:]).mean(1) for row in rows]
    clip = float(np.mean(reference.norms(per_example)))
    clipper = clipping.ClipBound(clip).resolve(model)
    context = clipping.Context(loop=loop)
    engine = clipping.RecordingEngine(model, clipper, clipping.make_plan(model), context, views)
    loss_fn = clipping.PerExampleLoss(LOSS)
    step = tf.function(
        lambda *data: vars(engine(*data, loss_fn)),
        input_signature=[tf.TensorSpec([None, *t.shape[1:]], t.dtype) for t in data],
    )
    result = step(*data)
    np.testing.assert_allclose(result["norms"], reference.norms(per_example), rtol=2e-5)
    reference.assert_close(result["sums"], reference.clipped_sum(per_example, clip))
    assert len(result["losses"]) == len(result["y_pred"]) == 2
