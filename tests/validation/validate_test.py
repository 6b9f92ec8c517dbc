"""`validate` against layers that mix examples, and layers that only look as if."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdp

L = keras.layers
ops = keras.ops


def batch(*shape, examples=4):
    return np.random.default_rng(0).normal(size=(examples, *shape)).astype("float32")


def tokens(*shape, examples=4):
    return np.random.default_rng(0).integers(0, 11, size=(examples, *shape))


def model_of(*layers, shape=(6,)):
    return keras.Sequential([keras.Input(shape), *layers])


def state_of(model):
    return [np.array(v.numpy()) for v in (*model.variables, *model.metrics_variables)]


def assert_valid(model, x, **expected):
    model(x if not isinstance(x, tuple) else x[0])
    before = state_of(model)
    report = tfdp.validate(model, x)
    for old, new in zip(before, state_of(model), strict=True):
        assert old.tobytes() == new.tobytes()
    for name, value in expected.items():
        assert getattr(report, name) == value
    assert report.layers > 0 and f"{report.layers} layers" in str(report)
    return report


def assert_refused(model, x, match):
    model(x if not isinstance(x, tuple) else x[0])
    before = state_of(model)
    with pytest.raises(ValueError, match=match):
        tfdp.validate(model, x)
    for old, new in zip(before, state_of(model), strict=True):
        assert old.tobytes() == new.tobytes()
    # As it was: nothing is left on the layers.
    assert not any("call" in vars(layer) for layer in model._flatten_layers())


class Own(L.Layer):
    """A layer whose call is given."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def call(self, inputs):
        return self.function(inputs)


def frozen_batch_normalization():
    model = model_of(L.Dense(3), L.BatchNormalization())
    model.layers[-1].trainable = False
    return model


def functional_minus_mean():
    inputs = keras.Input((6,))
    return keras.Model(inputs, L.Dense(3)(inputs - ops.mean(inputs, 0, keepdims=True)))


class OpInCall(keras.Model):
    def __init__(self, mix=True):
        super().__init__(name="outer")
        self.first = L.Dense(4, name="first")
        self.second = L.Dense(3, name="second")
        self.mix = mix

    def call(self, inputs):
        hidden = self.first(inputs)
        if self.mix:
            hidden = hidden - ops.mean(hidden, axis=0)
        return self.second(hidden)


class OpAtTheEnd(keras.Model):
    def __init__(self):
        super().__init__(name="outer")
        self.inner = L.Dense(4, name="inner")

    def call(self, inputs):
        return ops.softmax(self.inner(inputs), axis=0)


class Gate(L.Layer):
    """Batch statistics behind a weight that starts at zero."""

    def build(self, shape):
        self.gate = self.add_weight(name="gate", shape=(), initializer="zeros")

    def call(self, inputs):
        return inputs + self.gate * ops.mean(inputs, axis=0)


class TwoMeans(keras.Model):
    """A layer called twice, the second time on a mixed input."""

    def __init__(self):
        super().__init__(name="twice")
        self.shared = L.Dense(6, name="shared")

    def call(self, inputs):
        hidden = self.shared(inputs)
        return self.shared(ops.flip(hidden, axis=0))


def nested():
    inner = model_of(L.Dense(5), L.BatchNormalization(name="inside"))
    return model_of(L.Dense(6), inner, L.Dense(2))


def multi_input():
    a, b = keras.Input((3,), name="a"), keras.Input((5,), name="b", dtype="int32")
    hidden = L.Concatenate()([L.Dense(4)(a), L.Flatten()(L.Embedding(11, 2)(b))])
    return keras.Model({"a": a, "b": b}, {"y": L.Dense(2)(hidden), "z": L.Dense(1)(hidden)})


MIXING = {
    "batch_normalization": (
        lambda: model_of(L.Dense(3), L.BatchNormalization(name="norm"), L.Dense(2)),
        r"Layer 'norm' \(BatchNormalization\).*replace_batch_normalization",
    ),
    "nested": (nested, r"Layer 'inside' \(BatchNormalization\)"),
    "unit_normalization": (
        lambda: model_of(L.UnitNormalization(axis=0, name="over")),
        r"'over' \(UnitNormalization\)",
    ),
    "lambda": (
        lambda: model_of(L.Dense(3), L.Lambda(lambda x: x - ops.mean(x, 0), name="center")),
        r"Layer 'center' \(Lambda\).*other examples",
    ),
    "softmax": (lambda: model_of(L.Softmax(axis=0, name="over")), r"'over' \(Softmax\)"),
    "maximum": (lambda: model_of(Own(lambda x: x - ops.max(x, 0), name="m")), "'m'"),
    "contrastive": (
        lambda: model_of(L.Dense(3), Own(lambda x: x @ ops.transpose(x), name="pairs")),
        "'pairs'",
    ),
    "pairs": (
        lambda: model_of(Own(lambda x: x + 0.001 * ops.roll(x, 2, axis=0), name="pairs")),
        "'pairs'",
    ),
    "functional_op": (functional_minus_mean, r"'mean' \(Mean\)"),
    "op_in_call": (OpInCall, r"Layer 'outer' \(OpInCall\), in its own `call` before .*'second'"),
    "op_at_the_end": (OpAtTheEnd, r"Layer 'outer' \(OpAtTheEnd\) makes"),
    "called_twice": (TwoMeans, r"Layer 'twice' \(TwoMeans\), in its own `call` before .*'shared'"),
    "gate": (lambda: model_of(Gate(name="gate")), "'gate'"),
    "batch_size": (
        lambda: model_of(Own(lambda x: x / ops.cast(ops.shape(x)[0], x.dtype), name="by")),
        "'by'.*number of examples",
    ),
    "place": (
        lambda: model_of(
            Own(lambda x: x + ops.cast(ops.arange(ops.shape(x)[0]), x.dtype)[:, None], name="place")
        ),
        "'place'",
    ),
    "no_row_for_each": (
        lambda: model_of(Own(lambda x: ops.sum(x * x), name="total")),
        "'total'.*a row for each",
    ),
    "mix_up": (lambda: model_of(L.MixUp(name="mixed"), shape=(4, 4, 3)), "'mixed'"),
    "dropout_around": (
        lambda: model_of(L.Dropout(0.5), L.BatchNormalization(name="norm"), L.Dropout(0.5)),
        "'norm'",
    ),
    "infinite": (lambda: model_of(Own(lambda x: ops.max(1 / (x * 0), 0) + x, name="inf")), "'inf'"),
}


@pytest.mark.parametrize("name", MIXING)
def test_mixing_is_refused_with_the_first_layer(name):
    make, match = MIXING[name]
    model = make()
    shape = model.input_shape[1:] if isinstance(model, keras.Sequential) else (6,)
    assert_refused(model, batch(*shape), match)


def own_heads(x):
    """Head-major rows, as in the first Transformer: rows of an example lie apart."""
    rows = ops.concatenate(ops.split(x, 2, axis=1), axis=0)
    return ops.concatenate(ops.split(ops.tanh(rows), 2, axis=0), axis=1)


class TimeMajor(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(3)

    def call(self, inputs):
        return ops.transpose(self.dense(ops.transpose(inputs, (1, 0, 2))), (1, 0, 2))


class Rows(keras.Model):
    """Two rows for an example, in blocks and in turn."""

    def __init__(self):
        super().__init__()
        self.dense = L.Dense(3)

    def call(self, inputs):
        blocks = self.dense(ops.reshape(inputs, (-1, inputs.shape[-1] // 2)))
        turns = self.dense(ops.concatenate(ops.split(inputs, 2, axis=1), axis=0))
        return ops.reshape(blocks, (-1, 6)) + ops.concatenate(ops.split(turns, 2, axis=0), axis=1)


class ExampleByExample(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(3)

    def call(self, inputs):
        return tf.map_fn(lambda x: self.dense(x[None])[0], inputs)


class Compiled(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = L.Dense(3, name="within")
        self.dense.build((None, 6))

    @tf.function
    def call(self, inputs):
        return self.dense(inputs)


def positions():
    inputs = keras.Input((6, 4))
    table = L.Embedding(6, 4)(ops.arange(6))
    return keras.Model(inputs, inputs + table)


def attention():
    inputs = keras.Input((6, 8))
    hidden = L.MultiHeadAttention(2, 4, dropout=0.2)(inputs, inputs, use_causal_mask=True)
    return keras.Model(inputs, L.LayerNormalization()(hidden + inputs))


CLEAN = {
    "dense": (lambda: model_of(L.Dense(3)), batch(6)),
    "frozen_batch_normalization": (frozen_batch_normalization, batch(6)),
    "group_normalization": (
        lambda: model_of(L.Conv2D(4, 3), L.GroupNormalization(2), shape=(6, 6, 3)),
        batch(6, 6, 3),
    ),
    "dropout": (lambda: model_of(L.Dropout(0.5), L.Dense(3), L.GaussianNoise(0.1)), batch(6)),
    "recurrent": (
        lambda: model_of(L.GRU(3, return_sequences=True, dropout=0.2), L.LSTM(2), shape=(5, 3)),
        batch(5, 3),
    ),
    "bidirectional": (
        lambda: model_of(L.Bidirectional(L.SimpleRNN(3)), shape=(5, 3)),
        batch(5, 3),
    ),
    "time_distributed": (
        lambda: model_of(L.TimeDistributed(L.Dense(3)), shape=(5, 3)),
        batch(5, 3),
    ),
    "attention": (attention, batch(6, 8)),
    "embedding": (
        lambda: model_of(L.Embedding(11, 4, mask_zero=True), L.LSTM(3), shape=(5,)),
        tokens(5),
    ),
    "multi_input": (multi_input, ({"a": batch(3), "b": tokens(5)}, batch(2))),
    "spectral_normalization": (
        lambda: model_of(L.SpectralNormalization(L.Dense(3))),
        batch(6),
    ),
    "subclassed": (lambda: OpInCall(mix=False), batch(6)),
    "time_major": (TimeMajor, batch(5, 3)),
    "rows": (Rows, batch(6)),
    "example_by_example": (ExampleByExample, batch(6)),
    "compiled_call": (Compiled, batch(6)),
    "positions": (positions, batch(6, 4)),
    "masked_infinity": (
        lambda: model_of(Own(lambda x: ops.where(x >= x[:, :1], x, -np.inf)), L.Softmax()),
        batch(6),
    ),
    "half": (lambda: model_of(L.Dense(3, dtype="mixed_float16"), L.LayerNormalization()), batch(6)),
    "bfloat16": (lambda: model_of(L.Dense(3, dtype="bfloat16")), batch(6)),
    "integers_out": (lambda: model_of(L.Dense(3), Own(lambda x: ops.argmax(x, 1))), batch(6)),
    "private": (lambda: tfdp.make_private(model_of(L.Dense(3))), batch(6)),
    "cnn": (tfdp.models.mnist_cnn, batch(28, 28, 1)),
}


@pytest.mark.parametrize("name", CLEAN)
def test_independent_examples_pass_and_the_model_stays_as_it_was(name):
    make, x = CLEAN[name]
    assert_valid(make(), x, examples=4)


@pytest.mark.parametrize("examples", [2, 3, 5, 8])
def test_every_pair_of_examples_is_tried(examples):
    for first in range(examples):
        for second in set(range(examples)) - {first}:

            def leak(x, first=first, second=second):
                size = ops.shape(x)[0]
                onto = ops.one_hot(first, size, dtype=x.dtype)[:, None]
                return x + onto * ops.take(x, ops.minimum(second, size - 1), axis=0)

            with pytest.raises(ValueError, match="'leak'"):
                tfdp.validate(model_of(Own(leak, name="leak")), batch(6, examples=examples))


class Counter(L.Layer):
    """Keeps something of each call: of what, the function says."""

    def __init__(self, function, **kwargs):
        super().__init__(**kwargs)
        self.function = function

    def build(self, shape):
        self.seen = self.add_weight(name="seen", shape=(), trainable=False, initializer="zeros")

    def call(self, inputs):
        self.seen.assign_add(self.function(inputs))
        return inputs


def test_state_kept_from_the_batch_is_refused():
    total = model_of(Counter(ops.sum, name="counter"))
    assert_refused(total, batch(6), r"'counter' \(Counter\) keeps.*'.*counter/seen'")
    size = model_of(Counter(lambda x: ops.cast(ops.shape(x)[0], "float32"), name="counter"))
    assert_refused(size, batch(6), "'counter'.*keeps")
    assert_valid(model_of(Counter(lambda x: 1.0)), batch(6))


class WithMetric(L.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.mean = keras.metrics.Mean(name="activity")

    def call(self, inputs):
        self.mean.update_state(inputs)
        return inputs


class WithLoss(L.Layer):
    def call(self, inputs):
        self.add_loss(ops.sum(inputs * inputs))
        return inputs


def test_metrics_and_losses_of_layers_are_refused():
    assert_refused(model_of(WithMetric(name="measured")), batch(6), r"'measured' .WithMetric. keep")
    assert_refused(model_of(WithLoss(name="penalized")), batch(6), "'penalized' .WithLoss.")
    assert_valid(model_of(L.Dense(3, kernel_regularizer="l2")), batch(6))


class GlobalRandom(L.Layer):
    """Dropout without a seed: from the generator of Keras."""

    def call(self, inputs, training=None):
        return keras.random.dropout(inputs, 0.5) if training else inputs


class AlwaysRandom(L.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed = keras.random.SeedGenerator(1)

    def call(self, inputs):
        return keras.random.dropout(inputs, 0.5, seed=self.seed)


def test_what_was_compared_is_reported():
    assert_valid(model_of(L.Dense(3)), batch(6), part_mode="training", runs=8, layers=2)
    assert_valid(model_of(L.Dropout(0.5)), batch(6), part_mode="inference", runs=29)
    assert_valid(model_of(GlobalRandom()), batch(6), part_mode="inference")
    assert_valid(model_of(AlwaysRandom()), batch(6), part_mode=None)
    assert_valid(Compiled(), batch(6), unseen=("within",))
    report = assert_valid(model_of(L.Dense(3)), batch(6, examples=9), examples=9, runs=12)
    assert str(report) == (
        "No output for one example depended on another: 2 layers compared in 12 runs on 9 examples."
    )


def test_randomness_that_cannot_be_repeated_is_refused():
    noisy = model_of(Own(lambda x: x + tf.random.normal(tf.shape(x)), name="noisy"))
    assert_refused(noisy, batch(6), "'noisy'.*SeedGenerator")


def test_outputs_that_are_not_numbers_are_refused():
    broken = model_of(Own(lambda x: 0 * x / ops.maximum(x * 0, 0), name="broken"))
    assert_refused(broken, batch(6), "first NaN is in the output of layer 'broken'")
    x = batch(6)
    x[1] = np.nan
    assert_refused(model_of(L.Dense(2)), x, "first NaN is in the input to layer 'sequential")


def test_models_that_are_not_built_are_built():
    model = keras.Sequential([L.Dense(3, kernel_initializer="ones")])
    tfdp.validate(model, batch(6))
    np.testing.assert_array_equal(model.layers[0].kernel, np.ones((6, 3)))


def test_targets_are_not_looked_at():
    model = model_of(L.Dense(3))
    tfdp.validate(model, (batch(6), "no array", None))
    tfdp.validate(model, (tf.constant(batch(6)),))
    tfdp.validate(multi_input(), ({"a": batch(3), "b": tokens(5)},))


@pytest.mark.parametrize(
    "x, error, match",
    [
        (np.ones((1, 6)), ValueError, "at least 2 examples.*batch of 1"),
        (np.ones((4, 6)), ValueError, "at least 2 examples that differ.*batch of 4 equal"),
        ({"a": np.ones((4, 3)), "b": np.ones((5, 5))}, ValueError, r"first axis.*\(5, 5\)"),
        (np.float32(1.0), TypeError, "`batch`"),
        (np.array(1.0), ValueError, "`batch`"),
        ((), ValueError, "`batch`"),
        ([], TypeError, "`batch`"),
        (None, TypeError, "`batch`"),
        ([[1.0, 2.0]], TypeError, "`batch`"),
    ],
)
def test_batches_that_tell_nothing_are_refused(x, error, match):
    with pytest.raises(error, match=match):
        tfdp.validate(model_of(L.Dense(3)), x)
    with pytest.raises(TypeError, match="`model`"):
        tfdp.validate(lambda x: x, batch(6))
