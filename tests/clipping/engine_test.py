"""The clipped sum of the recording engine against one example at a time."""

import keras
import numpy as np
import one_example_at_a_time as reference
import pytest
import tensorflow as tf

from tfdp import clipping

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def engine_for(model, l2_norm_clip, mode="auto", loop=True):
    clipper = clipping.ClipBound(l2_norm_clip).resolve(model)
    if mode == "vectorized":
        return clipping.VectorizedEngine(model, clipper)
    plan = clipping.make_plan(model)
    return clipping.RecordingEngine(model, clipper, plan, clipping.Context(loop=loop))


def compiled(engine, loss=LOSS):
    """The engine as one compiled function of arrays."""

    def call(data):
        result = engine(*data, clipping.PerExampleLoss(loss))
        return result.sums, result.norms, result.finite, result.losses

    function = tf.function(call, autograph=False)

    def run(x, y, sample_weight=None):
        tensors = keras.tree.map_structure(
            lambda a: None if a is None else tf.convert_to_tensor(a), (x, y, sample_weight)
        )
        return function(tensors)

    return run


def run(engine, x, y, sample_weight=None, loss=LOSS):
    return compiled(engine, loss)(x, y, sample_weight)


def small_cnn():
    return keras.Sequential(
        [
            keras.Input((12, 12, 2)),
            keras.layers.Conv2D(4, 3, strides=2, padding="same", activation="tanh"),
            keras.layers.MaxPool2D(2, 1),
            keras.layers.Conv2D(24, 3, activation="relu"),
            keras.layers.Conv2D(40, 2, dilation_rate=2, use_bias=False),
            keras.layers.Flatten(),
            keras.layers.Dense(5, activation="tanh"),
            keras.layers.Dense(3),
        ]
    )


def batch(shape, length, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(length, *shape)).astype("float32")
    return x, rng.integers(0, classes, length)


@pytest.mark.parametrize("mode", ["auto", "vectorized"])
@pytest.mark.parametrize("length", [1, 7])
def test_clipped_sum_is_that_of_one_example_at_a_time(mode, length):
    model = small_cnn()
    x, y = batch((12, 12, 2), length)
    per_example = reference.gradients(model, LOSS, x, y)
    clip = float(np.median(reference.norms(per_example)))
    sums, norms, finite, losses = run(engine_for(model, clip, mode), x, y)
    reference.assert_close(sums, reference.clipped_sum(per_example, clip))
    np.testing.assert_allclose(norms, reference.norms(per_example), rtol=1e-5)
    assert finite.numpy().all() and losses.shape == (length,)


@pytest.mark.parametrize("mode", ["auto", "vectorized"])
@pytest.mark.parametrize("length", [1, 7])
def test_squared_norms_are_those_of_each_variable_one_example_at_a_time(mode, length):
    model = small_cnn()
    model.layers[2].trainable = False
    x, y = batch((12, 12, 2), length)
    if length > 1:
        x[3] = np.nan
    engine = engine_for(model, 1.0, mode)
    squared, finite = tf.function(
        lambda x, y: engine.squared_norms(x, y, None, clipping.PerExampleLoss(LOSS)),
        autograph=False,
    )(x, y)
    assert finite.numpy().tolist() == [k != 3 for k in range(length)]
    per_example = reference.gradients(model, LOSS, x, y)
    expected = [(g.reshape(length, -1) ** 2).sum(1)[finite] for g in per_example]
    reference.assert_close([s[finite] for s in squared], expected)


def test_gradients_that_come_as_slices_have_the_shape_of_the_output():
    inputs = keras.Input((3,))
    parts = [keras.layers.Dense(2)(inputs) for _ in range(2)]
    model = keras.Model(inputs, keras.layers.Concatenate()(parts))
    x, y = np.ones((5, 3), "float32"), np.zeros((5, 4), "float32")
    loss = keras.losses.MeanSquaredError()
    engine = engine_for(model, 0.1)
    of_any_length = tf.function(
        lambda x, y: engine(x, y, None, clipping.PerExampleLoss(loss)).sums,
        input_signature=[tf.TensorSpec([None, 3]), tf.TensorSpec([None, 4])],
        autograph=False,
    )
    expected = reference.clipped_sum(reference.gradients(model, loss, x, y), 0.1)
    reference.assert_close(of_any_length(x, y), expected)


def test_loop_and_patches_agree():
    model = small_cnn()
    x, y = batch((12, 12, 2), 5)
    by_loop = run(engine_for(model, 0.5, loop=True), x, y)
    by_patches = run(engine_for(model, 0.5, loop=False), x, y)
    reference.assert_close(by_loop[0], [t.numpy() for t in by_patches[0]])


@pytest.mark.parametrize("mode", ["auto", "vectorized"])
@pytest.mark.parametrize("clip", [1e-3, 1.0, 1e3])
def test_no_example_exceeds_the_clip_norm(mode, clip):
    step = compiled(engine_for(small_cnn(), clip, mode))
    for seed in range(10):
        x, y = batch((12, 12, 2), 1, seed=seed)
        sums, *_ = step(100 * x, y)
        norm = np.sqrt(sum((s.numpy().astype("float64") ** 2).sum() for s in sums))
        assert norm <= clip * (1 + 1e-6)


@pytest.mark.parametrize("mode", ["auto", "vectorized"])
def test_removing_an_example_moves_the_sum_by_at_most_the_clip_norm(mode):
    clip = 0.3
    step = compiled(engine_for(small_cnn(), clip, mode))
    x, y = batch((12, 12, 2), 6)
    whole, *_ = step(x, y)
    for left_out in range(6):
        keep = np.arange(6) != left_out
        part, *_ = step(x[keep], y[keep])
        distance = np.sqrt(
            sum(((a.numpy() - b.numpy()) ** 2).sum() for a, b in zip(whole, part, strict=True))
        )
        assert distance <= clip * (1 + 1e-5)


@pytest.mark.parametrize("mode", ["auto", "vectorized"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_non_finite_example_counts_as_zero_and_is_reported(mode, bad):
    model = small_cnn()
    x, y = batch((12, 12, 2), 4)
    clean, *_ = run(engine_for(model, 1.0, mode), x[1:], y[1:])
    x[0, 3, 3, 1] = bad
    sums, _, finite, _ = run(engine_for(model, 1.0, mode), x, y)
    assert finite.numpy().tolist() == [False, True, True, True]
    reference.assert_close(sums, [c.numpy() for c in clean])


@pytest.mark.parametrize("mode", ["auto", "vectorized"])
def test_sample_weights_scale_the_loss_before_clipping(mode):
    model = small_cnn()
    x, y = batch((12, 12, 2), 5)
    weight = np.array([0.0, 0.5, 1.0, 3.0, 100.0], "float32")
    per_example = reference.gradients(model, LOSS, x, y, weight)
    sums, norms, *_ = run(engine_for(model, 0.7, mode), x, y, weight)
    reference.assert_close(sums, reference.clipped_sum(per_example, 0.7))
    assert norms[0] == 0


def test_two_parts_of_a_model_that_share_a_layer():
    shared = keras.layers.Dense(6, activation="tanh")
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.layers.Dense(3)(shared(shared(inputs)) + shared(-inputs)))
    x, y = batch((6,), 5)
    per_example = reference.gradients(model, LOSS, x, y)
    sums, norms, *_ = run(engine_for(model, 0.4), x, y)
    np.testing.assert_allclose(norms, reference.norms(per_example), rtol=1e-5)
    reference.assert_close(sums, reference.clipped_sum(per_example, 0.4))


def test_dense_on_sequences_by_either_method():
    for units, positions in ((64, 3), (2, 50)):  # Gram norm, instantiation.
        model = keras.Sequential(
            [
                keras.Input((positions, 48)),
                keras.layers.Dense(units, activation="tanh"),
                keras.layers.GlobalAveragePooling1D(),
                keras.layers.Dense(3),
            ]
        )
        engine = engine_for(model, 0.1)
        x, y = batch((positions, 48), 6)
        per_example = reference.gradients(model, LOSS, x, y)
        sums, norms, *_ = run(engine, x, y)
        assert engine.reports[0].method == ("gram" if units == 64 else "instantiate")
        np.testing.assert_allclose(norms, reference.norms(per_example), rtol=1e-5)
        reference.assert_close(sums, reference.clipped_sum(per_example, 0.1))


def test_frozen_layers_and_layers_that_the_loss_ignores():
    inputs = keras.Input((6,))
    frozen = keras.layers.Dense(8, activation="tanh", trainable=False)
    hidden = frozen(inputs)
    ignored = keras.layers.Dense(2, name="ignored")(hidden)
    model = keras.Model(inputs, [keras.layers.Dense(3)(hidden), ignored])
    x, y = batch((6,), 4)

    def loss(y_true, y_pred, sample_weight=None):
        return LOSS(y_true, y_pred[0], sample_weight)

    per_example = reference.gradients(model, loss, x, y)
    sums, *_ = run(engine_for(model, 0.4), x, y, loss=loss)
    assert len(sums) == 4
    reference.assert_close(sums, reference.clipped_sum(per_example, 0.4))


def test_taps_are_gone_after_the_forward_pass():
    model = small_cnn()
    x, y = batch((12, 12, 2), 2)
    before = [(layer.call, getattr(layer, "activation", None)) for layer in model.layers]
    run(engine_for(model, 1.0), x, y)
    after = [(layer.call, getattr(layer, "activation", None)) for layer in model.layers]
    assert before == after
    assert all("call" not in vars(layer) for layer in model.layers)


def test_compiled_engine_pads_to_one_size():
    model = small_cnn()
    x, y = batch((12, 12, 2), 5)
    plain, norms, *_ = run(engine_for(model, 0.5), x, y)
    engine = clipping.CompiledEngine(engine_for(model, 0.5, loop=False), 8)
    sums, compiled_norms, finite, losses = run(engine, x, y)
    reference.assert_close(sums, [t.numpy() for t in plain], 1e-4)
    np.testing.assert_allclose(compiled_norms, norms, rtol=1e-4)
    assert finite.shape == losses.shape == (5,)


class Noisy(keras.layers.Layer):
    """Owns weights and draws random numbers."""

    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],), name="factor")
        self.generator = keras.random.SeedGenerator(1)

    def call(self, inputs):
        return inputs * self.factor * keras.random.uniform(tf.shape(inputs), seed=self.generator)


class Owner(keras.Model):
    """A model with a weight of its own."""

    def __init__(self):
        super().__init__()
        self.scale = self.add_weight(shape=(), name="scale")

    def call(self, inputs):
        return inputs * self.scale


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (keras.Sequential([keras.Input((4,)), Noisy(name="mine")]), "'mine' .Noisy.*random"),
        (
            keras.Sequential([keras.Input((4, 2)), keras.layers.LSTM(3, dropout=0.5, name="r")]),
            "'r' .LSTM.*random.*lstm_cell",
        ),
        (
            keras.Sequential(
                [keras.Input((4,)), keras.layers.SpectralNormalization(keras.layers.Dense(2))]
            ),
            "every forward pass",
        ),
        (Owner(), "model itself owns weights"),
    ],
)
def test_what_cannot_be_done_exactly_is_refused_by_name_with_the_remedy(model, message):
    with pytest.raises(ValueError, match=message + ".*register_rule.*vectorized"):
        clipping.make_plan(model).check()


@pytest.mark.parametrize("mode", ["auto", "vectorized"])
def test_added_losses_are_refused_by_name(mode):
    class Adds(keras.layers.Layer):
        def call(self, inputs):
            self.add_loss(tf.reduce_sum(inputs))
            return inputs

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), Adds(name="adds")])
    x, y = batch((4,), 3)
    with pytest.raises(ValueError, match="'adds' .Adds"):
        run(engine_for(model, 1.0, mode), x, y)


class WithPositions(keras.layers.Layer):
    """Adds rows of a table of positions, looked up once for all examples."""

    def __init__(self, length, batched, **kwargs):
        super().__init__(**kwargs)
        self.table = keras.layers.Embedding(length, 4, name="table")
        self.batched = batched

    def call(self, inputs):
        positions = keras.ops.arange(inputs.shape[1])
        if self.batched:
            batch = keras.ops.shape(inputs)[0]
            positions = keras.ops.broadcast_to(positions, (batch, inputs.shape[1]))
        return inputs + self.table(positions)


@pytest.mark.parametrize("length", [5, 4])
def test_a_layer_called_on_something_else_than_the_batch_is_refused(length):
    # With as many positions as examples the shapes alone would not tell.
    x, y = batch((length, 4), 4)
    for batched in (False, True):
        model = keras.Sequential(
            [
                keras.Input((length, 4)),
                WithPositions(length, batched),
                keras.layers.Flatten(),
                keras.layers.Dense(3),
            ]
        )
        engine = engine_for(model, 0.1)
        if not batched:
            with pytest.raises(ValueError, match="'table' .Embedding.*broadcast_to"):
                run(engine, x, y)
            engine = engine_for(model, 0.1, "vectorized")
        per_example = reference.gradients(model, LOSS, x, y)
        sums, norms, *_ = run(engine, x, y)
        np.testing.assert_allclose(norms, reference.norms(per_example), rtol=1e-5)
        reference.assert_close(sums, reference.clipped_sum(per_example, 0.1))


def test_layers_that_are_used_again_do_not_instantiate_large_gradients():
    dense, table = keras.layers.Dense(64), keras.layers.Embedding(1000, 64)
    left, right = keras.Input((3,), dtype="int32"), keras.Input((4,), dtype="int32")
    sides = [
        keras.layers.GlobalAveragePooling1D()(dense(dense(table(side)))) for side in (left, right)
    ]
    model = keras.Model([left, right], keras.layers.Dense(3)(sides[0] * sides[1]))
    rng = np.random.default_rng(0)
    x = [rng.integers(0, 5, (4, n)).astype("int32") for n in (3, 4)]
    y = rng.integers(0, 3, 4)
    per_example = reference.gradients(model, LOSS, x, y)
    sums, norms, *_ = run(engine_for(model, 0.1), x, y)
    np.testing.assert_allclose(norms, reference.norms(per_example), rtol=1e-5)
    reference.assert_close(sums, reference.clipped_sum(per_example, 0.1))
    gradients, *_ = engine_for(model, 0.1)._differentiate(
        *keras.tree.map_structure(tf.constant, (x, y)), None, clipping.PerExampleLoss(LOSS)
    )
    table_gradient, kernel_gradient = gradients[0], gradients[1]
    assert table_gradient.method == "sort ids" and table_gradient.positions == 7
    assert kernel_gradient.method == "gram" and kernel_gradient.positions == 14


class Inside(keras.layers.Layer):
    """Calls a layer where a recorder cannot follow, or uses its weights without it."""

    def __init__(self, how, **kwargs):
        super().__init__(**kwargs)
        self.how = how
        self.dense = keras.layers.Dense(4, name="hidden")
        self.compiled = tf.function(self.dense)

    def call(self, inputs):
        if self.how == "function":
            return self.compiled(inputs)
        if self.how == "condition":
            return tf.cond(
                tf.size(inputs) > 0, lambda: self.dense(inputs), lambda: tf.zeros_like(inputs)
            )
        return tf.matmul(self.dense(inputs), self.dense.kernel)


@pytest.mark.parametrize("how", ["function", "condition", "weights"])
def test_what_a_recorder_cannot_see_is_refused_by_name(how):
    layer = Inside(how)
    layer.dense.build((None, 4))
    model = keras.Sequential([keras.Input((4,)), layer, keras.layers.Dense(3)])
    x, y = batch((4,), 5)
    with pytest.raises(ValueError, match="hidden.*vectorized"):
        run(engine_for(model, 0.1), x, y)
    if how != "condition":  # vectorized_map cannot take this one either.
        per_example = reference.gradients(model, LOSS, x, y)
        sums, *_ = run(engine_for(model, 0.1, "vectorized"), x, y)
        reference.assert_close(sums, reference.clipped_sum(per_example, 0.1))


def test_rematerialized_layers_are_refused_by_name():
    with keras.RematScope("full"):
        layer = keras.layers.Dense(3, name="again")
    with pytest.raises(ValueError, match="'again'.*remat"):
        clipping.make_plan(keras.Sequential([keras.Input((4,)), layer])).check()


def test_layers_of_different_precision():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(5, activation="tanh", dtype="float64"),
            keras.layers.Dense(3, dtype="float32"),
        ]
    )
    x, y = batch((4,), 5)
    per_example = reference.gradients(model, LOSS, x, y)
    sums, norms, *_ = run(engine_for(model, 0.1), x, y)
    np.testing.assert_allclose(norms, reference.norms(per_example), rtol=1e-5)
    reference.assert_close(sums, reference.clipped_sum(per_example, 0.1))


def test_gradients_of_losses_that_float16_cannot_hold_are_kept_by_scaling():
    shell = keras.Model()
    shell.compile(
        loss=lambda y, y_pred: 1e-8 * keras.ops.sum(keras.ops.cast(y_pred, "float32"), -1)
    )
    loss = clipping.PerExampleLoss(shell._compile_loss)
    outputs = tf.zeros([3, 2], tf.float16)
    with tf.GradientTape() as tape:
        tape.watch(outputs)
        total = 256.0 * tf.reduce_sum(loss(tf.zeros([3, 2]), outputs, None))
    gradient = tape.gradient(total, outputs)
    np.testing.assert_allclose(gradient, np.full((3, 2), 2.56e-6), rtol=0.03)
