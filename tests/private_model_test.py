"""Training steps of private models against one example at a time and ordinary Keras."""

import os
import subprocess
import sys

import keras
import numpy as np
import one_example_at_a_time as reference
import pytest
import tensorflow as tf

import tfdp

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
SGD = tfdp.optimizers.VectorizedDPKerasSGDOptimizer


class Subclassed(keras.Model):
    """Two dense layers, the first of them used twice."""

    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(6, activation="tanh")
        self.logits = keras.layers.Dense(3)

    def call(self, inputs):
        return self.logits(self.hidden(self.hidden(inputs)))


def mlp():
    return keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(3)]
    )


def nested():
    inputs = keras.Input((6,))
    return keras.Model(inputs, keras.layers.Dense(3)(mlp()(inputs) + 1))


def subclassed():
    model = Subclassed()
    model(np.zeros((1, 6), "float32"))
    return model


def batch(shape, length, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(length, *shape)).astype("float32")
    return x, rng.integers(0, classes, length)


def weights(model):
    return [v.numpy() for v in model.trainable_variables]


def steps_of(before, after):
    return [b - a for b, a in zip(before, after, strict=True)]


MODELS = {
    "mlp": (mlp, (6,), 3),
    "nested": (nested, (6,), 3),
    "subclassed": (subclassed, (6,), 3),
    "mnist_cnn": (tfdp.models.mnist_cnn, (28, 28, 1), 10),
    "cifar_cnn": (tfdp.models.cifar_cnn, (32, 32, 3), 10),
}


@pytest.mark.parametrize("clipping", ["auto", "vectorized"])
@pytest.mark.parametrize("name", MODELS)
def test_one_fit_step_is_the_mean_of_clipped_gradients(name, clipping):
    make, shape, classes = MODELS[name]
    model = make()
    x, y = batch(shape, 9, classes)
    per_example = reference.gradients(model, LOSS, x, y)
    clip = float(np.median(reference.norms(per_example)))
    private = tfdp.make_private(model, clipping=clipping, physical_batch_size=4)
    private.compile(SGD(clip, 0.0, learning_rate=1.0), loss=LOSS)
    before = weights(model)
    private.fit(x, y, batch_size=9, verbose=0)
    expected = [total / 9 for total in reference.clipped_sum(per_example, clip)]
    reference.assert_close(steps_of(before, weights(model)), expected)


@pytest.mark.parametrize(
    ("private_class", "ordinary_class", "options"),
    [
        (SGD, keras.optimizers.SGD, {"learning_rate": 0.1}),
        (SGD, keras.optimizers.SGD, {"learning_rate": 0.1, "momentum": 0.9}),
        (
            tfdp.optimizers.VectorizedDPKerasAdamOptimizer,
            keras.optimizers.Adam,
            {"learning_rate": 0.01},
        ),
        (
            tfdp.optimizers.VectorizedDPKerasAdagradOptimizer,
            keras.optimizers.Adagrad,
            {"learning_rate": 0.1},
        ),
    ],
)
def test_without_noise_and_clipping_it_is_ordinary_training(private_class, ordinary_class, options):
    regularized = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="tanh", kernel_regularizer="l2"),
            keras.layers.Dense(3),
        ]
    )
    ordinary = keras.models.clone_model(regularized)
    ordinary.set_weights(regularized.get_weights())
    x, y = batch((6,), 16)
    weight = np.linspace(0, 2, 16).astype("float32")
    ordinary.compile(ordinary_class(**options), loss=LOSS)
    private = tfdp.make_private(regularized, physical_batch_size=5)
    private.compile(private_class(1e9, 0.0, **options), loss=LOSS)
    # Adam divides by the root of tiny second moments: compare before rounding is amplified.
    ours = private.fit(x, y, batch_size=16, epochs=20, sample_weight=weight, verbose=0)
    theirs = ordinary.fit(
        x, y, batch_size=16, epochs=20, sample_weight=weight, shuffle=False, verbose=0
    )
    reference.assert_close(weights(regularized), weights(ordinary), 1e-4)
    np.testing.assert_allclose(ours.history["loss"], theirs.history["loss"], rtol=1e-4)


@pytest.mark.parametrize("clipping", ["auto", "vectorized"])
def test_dropout_keeps_the_clip_bound(clipping):
    model = keras.Sequential(
        [
            keras.Input((20,)),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3),
        ]
    )
    private = tfdp.make_private(model, expected_batch_size=1, clipping=clipping)
    private.compile(SGD(1.0, 0.0, learning_rate=1.0), loss=LOSS)
    initial = model.get_weights()
    bites = 0
    for seed in range(50):
        x, y = batch((20,), 1, seed=seed)
        model.set_weights(initial)
        before = weights(model)
        private.train_on_batch(10 * x, y)
        update = steps_of(before, weights(model))
        norm = np.sqrt(sum((u.astype("float64") ** 2).sum() for u in update))
        assert norm <= 1 + 1e-5
        bites += norm > 0.99
    assert bites > 10  # Elsewhere the loss was near zero, or every unit dropped.


@pytest.mark.parametrize("clipping", ["auto", "vectorized"])
def test_dropout_masks_differ_between_examples_and_steps(clipping):
    # One output a weight: an example's gradient is zero where its mask is.
    inputs = keras.Input((64,))
    dropped = keras.layers.Dropout(0.5)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(8, use_bias=False)(dropped))

    def loss(y_true, y_pred):
        return tf.reduce_sum(y_true * y_pred, axis=-1)

    private = tfdp.make_private(model, expected_batch_size=1, clipping=clipping)
    private.compile(SGD(1e9, 0.0, learning_rate=1.0), loss=loss)
    x, y = np.ones((8, 64), "float32"), np.eye(8, dtype="float32")
    masks = []
    for _ in range(3):
        before = weights(model)
        private.train_on_batch(x, y)
        (update,) = steps_of(before, weights(model))
        masks.append(update.T != 0)  # Row i: where example i's mask let its input through.
    rows = np.concatenate(masks)
    assert len(np.unique(rows, axis=0)) == len(rows)
    assert 0.4 < rows.mean() < 0.6


def test_an_empty_batch_is_a_step_of_noise_alone():
    model = mlp()
    private = tfdp.make_private(model)
    private.compile(SGD(1.0, 1.0, learning_rate=1.0), loss=LOSS)
    x, y = batch((6,), 1)
    data = tfdp.sampling.PoissonDataset(
        np.repeat(x, 1000, 0), np.repeat(y, 1000), expected_batch_size=1, steps_per_epoch=20
    )
    private.fit(data, epochs=1, verbose=0)
    assert private.ledger.releases[-1].count == 20
    assert all(np.isfinite(w).all() for w in weights(model))


@pytest.mark.parametrize("physical_batch_size", [8, 256])
@pytest.mark.parametrize(
    ("steps_per_execution", "accumulated"), [(1, None), (8, None), (1, 4), (8, 4)]
)
def test_noise_of_many_steps_has_the_variance_that_was_asked_for(
    physical_batch_size, steps_per_execution, accumulated
):
    model = keras.Sequential([keras.Input((50,)), keras.layers.Dense(400, use_bias=False)])

    def zero(y_true, y_pred):
        return 0.0 * tf.reduce_sum(y_pred, axis=-1)

    private = tfdp.make_private(model, physical_batch_size=physical_batch_size)
    private.compile(
        SGD(0.5, 3.0, learning_rate=2.0, gradient_accumulation_steps=accumulated),
        loss=zero,
        steps_per_execution=steps_per_execution,
    )
    before = weights(model)
    x, y = np.ones((64, 50)), np.ones((64, 1))
    private.fit(x, y, batch_size=32, steps_per_epoch=8, epochs=2, verbose=0)
    assert private.ledger.releases[0].count == 16
    (update,) = steps_of(before, weights(model))
    # Keras applies the mean of accumulated gradients: fewer updates, of less variance each.
    variance = 16 * (2.0 * 3.0 * 0.5 / 32) ** 2 / (accumulated or 1) ** 2
    assert abs(update.var() / variance - 1) < 0.05
    assert abs(update.mean()) < 5 * np.sqrt(variance / update.size)


@pytest.mark.parametrize("length", [0, 1, 12, 13])
def test_a_logical_batch_is_the_sum_of_its_physical_batches(length):
    x, y = batch((6,), length)
    updates = []
    for physical_batch_size in (1, 3, 4, 64):
        keras.utils.set_random_seed(3)
        model = mlp()
        private = tfdp.make_private(
            model, physical_batch_size=physical_batch_size, expected_batch_size=8
        )
        private.compile(SGD(0.5, 0.0, learning_rate=1.0), loss=LOSS)
        before = weights(model)
        private.train_on_batch(x, y)
        updates.append(steps_of(before, weights(model)))
    for update in updates[:-1]:
        reference.assert_close(update, updates[-1], 1e-6)
    assert any(part.any() for part in updates[-1]) == (length > 0)


def test_class_weight_validation_data_metrics_and_steps_per_execution():
    model = mlp()
    x, y = batch((6,), 60)
    private = tfdp.make_private(model)
    private.compile(
        SGD(1.0, 1.0, learning_rate=0.1),
        loss=LOSS,
        metrics=["accuracy"],
        weighted_metrics=["accuracy"],
        steps_per_execution=3,
    )
    history = private.fit(
        x,
        y,
        batch_size=10,
        epochs=2,
        class_weight={0: 1.0, 1: 2.0},
        validation_split=0.5,
        callbacks=[tfdp.callbacks.PrivacyBudget(None, 1e-3)],
        verbose=0,
    )
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "epsilon"} <= set(history.history)
    (release,) = private.ledger.releases
    assert release.count == 6
    assert release.details["num_examples"] == 30
    assert history.history["epsilon"][-1] == private.ledger.epsilon(1e-3)
    assert private.evaluate(x, y, verbose=0)[0] > 0
    assert private.predict(x, verbose=0).shape == (60, 3)


def test_class_weights_are_sample_weights():
    x, y = batch((6,), 12)
    updates = []
    for options in (
        {"class_weight": {0: 3.0, 2: 0.0}},
        {"sample_weight": np.array([3.0, 1.0, 0.0], "float32")[y]},
    ):
        keras.utils.set_random_seed(3)
        model = mlp()
        private = tfdp.make_private(model)
        private.compile(SGD(0.5, 0.0, learning_rate=1.0), loss=LOSS)
        private.fit(x, y, batch_size=12, verbose=0, **options)
        updates.append(weights(model))
    reference.assert_close(*updates)


def test_batches_above_the_size_that_xla_compiles_are_cut():
    updates = []
    x, y = batch((5,), 65)  # One more than a physical batch that tfdp chooses.
    for jit_compile in (False, True):
        keras.utils.set_random_seed(3)
        model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
        private = tfdp.make_private(model)
        private.compile(SGD(0.5, 0.0, learning_rate=1.0), loss=LOSS, jit_compile=jit_compile)
        private.fit(x, y, batch_size=65, verbose=0)
        updates.append(weights(model))
    reference.assert_close(*updates)


@pytest.mark.parametrize("options", [{"run_eagerly": True}, {"jit_compile": True}])
def test_eager_and_compiled_steps_are_the_same_step(options):
    updates = []
    x, y = batch((12, 12, 1), 10)
    for compile_options in ({}, options):
        keras.utils.set_random_seed(3)
        model = keras.Sequential(
            [
                keras.Input((12, 12, 1)),
                keras.layers.Conv2D(4, 3, activation="tanh"),
                keras.layers.Flatten(),
                keras.layers.Dense(3),
            ]
        )
        private = tfdp.make_private(model, physical_batch_size=4)
        private.compile(SGD(0.5, 0.0, learning_rate=1.0), loss=LOSS, **compile_options)
        private.fit(x, y, batch_size=10, epochs=2, verbose=0)
        updates.append(weights(model))
    reference.assert_close(*updates)


TRAIN_COMPILED = """
import keras, numpy as np, tfdp

model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
private = tfdp.make_private(model, physical_batch_size=4)
optimizer = tfdp.optimizers.VectorizedDPKerasSGDOptimizer(1.0, 1.0, learning_rate=1.0)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
private.compile(optimizer, loss=loss, jit_compile=True)
private.fit(np.ones((10, 5), "float32"), np.zeros(10, int), batch_size=6, epochs=3, verbose=0)
"""


def test_xla_compiles_the_physical_step_once(tmp_path):
    flags = f"--xla_dump_to={tmp_path} --xla_dump_hlo_as_text"
    environment = {**os.environ, "XLA_FLAGS": flags, "TF_CPP_MIN_LOG_LEVEL": "2"}
    subprocess.run([sys.executable, "-c", TRAIN_COMPILED], env=environment, check=True)
    compilations = list(tmp_path.glob("*before_optimizations.txt"))
    assert len(compilations) == 1, compilations


def test_several_inputs_and_outputs_with_loss_weights():
    left, right = keras.Input((4,), name="left"), keras.Input((3,), name="right")
    hidden = keras.layers.Concatenate()(
        [keras.layers.Dense(5, activation="tanh")(left), keras.layers.Dense(2)(right)]
    )
    model = keras.Model(
        {"left": left, "right": right},
        {
            "label": keras.layers.Dense(3, name="label")(hidden),
            "value": keras.layers.Dense(1, name="value")(hidden),
        },
    )
    rng = np.random.default_rng(0)
    x = {
        "left": rng.normal(size=(6, 4)).astype("float32"),
        "right": rng.normal(size=(6, 3)).astype("float32"),
    }
    y = {"label": rng.integers(0, 3, 6), "value": rng.normal(size=(6, 1)).astype("float32")}

    def loss(y_true, y_pred, sample_weight=None):
        value = keras.losses.MeanSquaredError()(y_true["value"], y_pred["value"])
        return LOSS(y_true["label"], y_pred["label"]) + 0.3 * value

    per_example = reference.gradients(model, loss, x, y)
    private = tfdp.make_private(model)
    private.compile(
        SGD(0.5, 0.0, learning_rate=1.0),
        loss={"label": LOSS, "value": "mse"},
        loss_weights={"label": 1.0, "value": 0.3},
    )
    before = weights(model)
    history = private.fit(x, y, batch_size=6, verbose=0)
    expected = [total / 6 for total in reference.clipped_sum(per_example, 0.5)]
    reference.assert_close(steps_of(before, weights(model)), expected)
    assert history.history["label_loss"][0] > 0


def test_train_on_batch_divides_by_the_expected_size_and_is_charged_in_full():
    model = mlp()
    x, y = batch((6,), 5)
    per_example = reference.gradients(model, LOSS, x, y)
    private = tfdp.make_private(model, expected_batch_size=8)
    private.compile(SGD(0.5, 0.0, learning_rate=1.0), loss=LOSS)
    before = weights(model)
    private.train_on_batch(x, y)
    expected = [total / 8 for total in reference.clipped_sum(per_example, 0.5)]
    reference.assert_close(steps_of(before, weights(model)), expected)
    assert private.ledger.epsilon(1e-5) == np.inf

    private.compile(SGD(0.5, 2.0, learning_rate=1.0), loss=LOSS)
    fresh = tfdp.make_private(mlp(), expected_batch_size=8)
    fresh.compile(SGD(0.5, 2.0), loss=LOSS)
    fresh.train_on_batch(x, y)
    assert np.isclose(fresh.ledger.epsilon(1e-5), tfdp.accounting.epsilon(2.0, 1.0, 1, 1e-5))


def test_train_step_in_a_loop_of_ones_own():
    model = mlp()
    x, y = batch((6,), 8)
    private = tfdp.make_private(model, expected_batch_size=8)
    private.compile(SGD(0.5, 1.0, learning_rate=1.0), loss=LOSS)
    step = tf.function(private.train_step)
    for _ in range(3):
        step((tf.constant(x), tf.constant(y)))
    assert private.ledger.releases[-1].count == 3


def test_steps_of_ones_own_after_fit_are_not_charged_as_poisson_samples():
    x, y = batch((6,), 20)
    private = tfdp.make_private(mlp(), expected_batch_size=5)
    private.compile(SGD(0.5, 1.0), loss=LOSS)
    step = tf.function(private.train_step)
    data = (tf.constant(x[:5]), tf.constant(y[:5]))
    private.fit(x, y, batch_size=5, verbose=0)
    step(data)
    private.fit(x, y, batch_size=5, verbose=0)
    step(data)  # Traced before, and run after another mechanism.
    full, sampled = (tfdp.accounting.dp_sgd_event(1.0, q) for q in (1.0, 0.25))
    releases = [(release.event, release.count) for release in private.ledger.releases]
    assert releases == [(sampled, 4), (full, 1), (sampled, 4), (full, 1)]


def test_a_second_fit_of_the_same_kind_is_not_traced_again():
    traces = []

    def loss(y_true, y_pred):
        traces.append(1)
        return tf.reduce_mean(tf.square(y_pred), axis=-1)

    x, y = batch((6,), 20)
    private = tfdp.make_private(mlp())
    private.compile(SGD(0.5, 1.0), loss=loss)
    private.fit(x, y, batch_size=5, verbose=0)
    count = len(traces)
    private.fit(x, y, batch_size=5, verbose=0)
    assert len(traces) == count


def test_the_released_model_is_plain(tmp_path):
    model = mlp()
    private = tfdp.make_private(model)
    private.compile(SGD(1.0, 1.0), loss=LOSS)
    x, y = batch((6,), 20)
    private.fit(x, y, batch_size=5, verbose=0)
    model.save(tmp_path / "released.keras")
    loaded = keras.saving.load_model(tmp_path / "released.keras")
    assert type(loaded) is keras.Sequential
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), private.predict(x, verbose=0))


def test_a_saved_private_model_goes_on_with_its_ledger(tmp_path):
    model = mlp()
    private = tfdp.make_private(model, physical_batch_size=7)
    private.compile(SGD(1.0, 1.0, momentum=0.9), loss=LOSS, metrics=["accuracy"])
    x, y = batch((6,), 20)
    private.fit(x, y, batch_size=5, verbose=0)
    private.save(tmp_path / "private.keras")
    loaded = keras.saving.load_model(tmp_path / "private.keras")
    assert loaded.ledger == private.ledger
    assert loaded.physical_batch_size == 7
    assert loaded.optimizer.noise_multiplier == 1.0
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), private.predict(x, verbose=0))
    reference.assert_close(
        [v.numpy() for v in loaded.optimizer.variables],
        [v.numpy() for v in private.optimizer.variables],
    )
    loaded.fit(x, y, batch_size=5, verbose=0)
    assert loaded.ledger.releases[-1].count == 8


def test_undoing_weights_does_not_undo_what_was_spent(tmp_path):
    model = mlp()
    private = tfdp.make_private(model)
    private.compile(SGD(1.0, 1.0), loss=LOSS)
    x, y = batch((6,), 20)
    private.fit(x, y, batch_size=5, verbose=0)
    private.save_weights(tmp_path / "early.weights.h5")
    early = private.get_weights()
    private.fit(x, y, batch_size=5, verbose=0)
    private.set_weights(early)
    assert private.ledger.releases[-1].count == 8
    private.load_weights(tmp_path / "early.weights.h5")
    assert private.ledger.releases[-1].count == 8


def test_a_second_fit_with_other_parameters_is_a_release_of_its_own():
    private = tfdp.make_private(mlp())
    private.compile(SGD(1.0, 1.0), loss=LOSS)
    x, y = batch((6,), 20)
    private.fit(x, y, batch_size=5, verbose=0)
    private.fit(x, y, batch_size=10, verbose=0)
    private.compile(SGD(1.0, 2.0), loss=LOSS)
    private.fit(x, y, batch_size=10, epochs=2, verbose=0)
    assert [release.count for release in private.ledger.releases] == [4, 2, 4]
    events = [release.event for release in private.ledger.releases]
    assert events == [
        tfdp.accounting.dp_sgd_event(sigma, q) for sigma, q in ((1, 0.25), (1, 0.5), (2, 0.5))
    ]


def test_an_example_that_is_not_finite_is_warned_of():
    model = mlp()
    x, y = batch((6,), 10)
    x[3] = np.nan
    private = tfdp.make_private(model)
    private.compile(SGD(1.0, 0.0), loss=LOSS)
    with pytest.warns(UserWarning, match="2 times an example's"):
        private.fit(x, y, batch_size=10, epochs=2, verbose=0)
    assert all(np.isfinite(w).all() for w in weights(model))


def test_fixed_seeds_are_marked_not_private():
    x, y = batch((6,), 10)
    private = tfdp.make_private(mlp())
    private.compile(SGD(1.0, 1.0, noise_seed=1), loss=LOSS)
    data = tfdp.sampling.PoissonDataset(x, y, expected_batch_size=5, seed=3)
    private.fit(data, verbose=0)
    assert private.ledger.not_private_reasons == ("fixed sampling seed", "fixed noise seed")
    assert "NOT PRIVATE" in str(private.privacy_statement(1e-3))


def test_clipping_summary_names_layers_and_methods():
    private = tfdp.make_private(tfdp.models.cifar_cnn())
    table = private.clipping_summary()
    assert "example loop" in table and "gram" in table and "73,728" in table
    left, right = keras.Input((4,), name="a"), keras.Input((3,), name="b")
    both = keras.Model({"a": left, "b": right}, keras.layers.Dense(2)(left) + right[:, :2])
    assert "closed form" in tfdp.make_private(both).clipping_summary()
    unseen = tfdp.make_private(Subclassed())
    with pytest.raises(ValueError, match="not trained yet"):
        unseen.clipping_summary()


@pytest.mark.parametrize("options", [{}, {"automatic_gamma": 0.1}])
@pytest.mark.parametrize("bound", [0.5, [0.3, 0.4], {"hidden": 0.3, "logits": 0.4}])
def test_clip_modes_bound_the_update_and_scale_the_noise(bound, options):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="tanh", name="hidden"),
            keras.layers.Dense(3, name="logits"),
        ]
    )
    x, _ = batch((6,), 1)
    y = np.argmin(model(x), axis=1)  # Far from right, so that gradients are long.
    private = tfdp.make_private(model, expected_batch_size=1)
    optimizer = SGD(bound, 0.0, learning_rate=1.0, **options)
    private.compile(optimizer, loss=LOSS)
    before = weights(model)
    private.train_on_batch(x, y)
    update = steps_of(before, weights(model))
    norms = [np.sqrt((a**2).sum() + (b**2).sum()) for a, b in (update[:2], update[2:])]
    expected = np.array([0.3, 0.4]) if bound != 0.5 else 0.5
    actual = np.array(norms) if bound != 0.5 else np.hypot(*norms)
    assert (actual <= expected * (1 + 1e-5)).all()
    assert (actual >= expected * 0.8).all()
    noisy = SGD(bound, 2.0, **options)
    assert noisy.noise_stddev == pytest.approx(1.0)
    restored = keras.optimizers.deserialize(keras.optimizers.serialize(noisy))
    assert restored.clip_bound == noisy.clip_bound
    private.compile(noisy, loss=LOSS)
    private.train_on_batch(x, y)
    assert "per layer" in str(private.privacy_statement(1e-5)) or bound == 0.5


def test_gradient_norms_as_metrics():
    model = mlp()
    x, y = batch((6,), 9)
    per_example = reference.norms(reference.gradients(model, LOSS, x, y))
    clip = float(np.sort(per_example)[5])  # Three are longer.
    private = tfdp.make_private(model)
    private.compile(SGD(clip + 1e-4, 0.0), loss=LOSS, gradient_norm_metrics=True)
    history = private.fit(x, y, batch_size=9, verbose=0).history
    np.testing.assert_allclose(history["clipped_fraction"], [3 / 9], rtol=1e-5)
    np.testing.assert_allclose(history["gradient_norm_median"], [np.median(per_example)], rtol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float64"])
def test_precisions(policy):
    keras.utils.set_random_seed(2)
    before_policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = keras.Sequential(
            [
                keras.Input((10, 10, 2)),
                keras.layers.Conv2D(6, 3, activation="tanh"),
                keras.layers.GroupNormalization(3),
                keras.layers.Flatten(),
                keras.layers.Dense(3, dtype=None if policy == "float64" else "float32"),
            ]
        )
    finally:
        keras.config.set_dtype_policy(before_policy)
    x, y = batch((10, 10, 2), 6)
    per_example = reference.gradients(model, LOSS, x, y)
    clip = float(np.median(reference.norms(per_example)))
    private = tfdp.make_private(model)
    private.compile(SGD(clip, 0.0, learning_rate=1.0), loss=LOSS)
    before = weights(model)
    private.fit(x, y, batch_size=6, verbose=0)
    expected = [total / 6 for total in reference.clipped_sum(per_example, clip)]
    tolerance = {"float64": 1e-5, "mixed_float16": 1e-2, "mixed_bfloat16": 6e-2}[policy]
    reference.assert_close(steps_of(before, weights(model)), expected, tolerance)


def test_batches_of_all_sizes_run_in_one_trace():
    traces = []

    def loss(y_true, y_pred):
        traces.append(y_pred.shape)
        return tf.reduce_mean(tf.square(y_true - y_pred), axis=-1)

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    private = tfdp.make_private(model)
    private.compile(SGD(1.0, 1.0), loss=loss)
    x, y = np.zeros((100_000, 3), "float32"), np.zeros((100_000, 2), "float32")
    data = tfdp.sampling.PoissonDataset(x, y, expected_batch_size=65_536, steps_per_epoch=2)
    private.fit(data, epochs=2, verbose=0)
    first = len(traces)
    private.fit(data, epochs=3, verbose=0)
    assert len(traces) == first
    assert private.ledger.releases[-1].count == 10


BAD_FITS = [
    ({"batch_size": 0}, "batch_size=0"),
    ({"batch_size": 21}, "batch_size=21"),
    ({"batch_size": 2.5}, "batch_size=2.5"),
    ({"y": np.zeros(7)}, "same first axis"),
    ({"x": None}, "x=None"),
    ({"x": tf.data.Dataset.range(3)}, "tfdp.sampling.declare"),
    ({"validation_split": 1.5}, "validation_split=1.5"),
    ({"steps_per_epoch": -1}, "steps_per_epoch=-1"),
    ({"class_weight": {0: 1.0}, "sample_weight": np.ones(20)}, "class_weight"),
    ({"x": np.array(["a"] * 20)}, "numeric"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_FITS)
def test_bad_arguments_of_fit_are_named_before_training(arguments, message):
    x, y = batch((6,), 20)
    private = tfdp.make_private(mlp())
    private.compile(SGD(1.0, 1.0), loss=LOSS)
    with pytest.raises((ValueError, TypeError), match=message):
        private.fit(**{"x": x, "y": y, "verbose": 0, **arguments})
    assert private.ledger.releases == ()


def test_bad_arguments_of_make_private_and_compile_are_named():
    with pytest.raises(TypeError, match="model="):
        tfdp.make_private("model")
    for name in ("physical_batch_size", "expected_batch_size"):
        with pytest.raises(ValueError, match=f"{name}=0"):
            tfdp.make_private(mlp(), **{name: 0})
    with pytest.raises(ValueError, match="clipping='fast'"):
        tfdp.make_private(mlp(), clipping="fast")
    private = tfdp.make_private(mlp())
    with pytest.raises(ValueError, match="DP optimizer"):
        private.compile(keras.optimizers.SGD(), loss=LOSS)
    with pytest.raises(ValueError, match="loss=None"):
        private.compile(SGD(1.0, 1.0))
    private.compile(SGD(1.0, 1.0), loss=LOSS)
    with pytest.raises(ValueError, match="expected_batch_size=None"):
        private.train_on_batch(np.zeros((2, 6)), np.zeros(2))
    private.compile(SGD(1.0, 1.0, num_microbatches=3), loss=LOSS)
    with pytest.raises(ValueError, match="num_microbatches=3"):
        private.fit(np.zeros((20, 6)), np.zeros(20), batch_size=10, verbose=0)


class OwnStep(keras.Model):
    def train_step(self, data):
        return {}


def test_models_that_cannot_be_private_are_refused_with_the_remedy():
    normalized = keras.Sequential(
        [keras.Input((4,)), keras.layers.BatchNormalization(name="norm"), keras.layers.Dense(2)]
    )
    with pytest.raises(ValueError, match="'norm' .BatchNormalization.*replace_batch_norm"):
        tfdp.make_private(normalized)
    tfdp.make_private(tfdp.replace_batch_normalization(normalized))
    normalized.layers[0].trainable = False  # Its moving statistics mix no examples.
    tfdp.make_private(normalized)
    penalized = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(2, activity_regularizer="l2", name="busy")]
    )
    with pytest.raises(ValueError, match="'busy'.*activity regularizer"):
        tfdp.make_private(penalized)
    with pytest.raises(ValueError, match="train_step"):
        tfdp.make_private(OwnStep())


def test_replacing_batch_normalization_keeps_every_other_weight():
    inner = keras.Sequential(
        [keras.Input((8, 8, 12)), keras.layers.BatchNormalization(), keras.layers.Conv2D(6, 3)]
    )
    inputs = keras.Input((8, 8, 3))
    outputs = inner(keras.layers.Conv2D(12, 3, padding="same")(inputs))
    outputs = keras.layers.BatchNormalization(scale=False)(outputs)
    model = keras.Model(inputs, outputs)
    copy = tfdp.replace_batch_normalization(model, groups=4)
    kinds = [type(layer).__name__ for layer in copy._flatten_layers()]
    assert "BatchNormalization" not in kinds and kinds.count("GroupNormalization") == 2
    for old, new in zip(
        [v for v in model.trainable_variables], copy.trainable_variables, strict=True
    ):
        np.testing.assert_array_equal(old, new)
