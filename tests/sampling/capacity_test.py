"""Batches of fixed shape: padding counts for nothing, the cut is random and accounted for."""

import keras
import numpy as np
import one_example_at_a_time as reference
import pytest
import tensorflow as tf
from scipy import stats

import tfdp
from tfdp import make_private, optimizers, sampling

SGD = optimizers.VectorizedDPKerasSGDOptimizer


def test_batches_have_one_shape_and_a_mask():
    data = sampling.PoissonDataset(
        np.arange(200), np.arange(200), expected_batch_size=20, capacity=25, steps_per_epoch=300
    )
    counts = []
    for batch in data.as_batches(300):
        x, y, _ = batch.examples
        assert x.shape == y.shape == batch.valid.shape == (25,)
        count = int(batch.valid.numpy().sum())
        drawn = x.numpy()[:count]
        assert batch.valid.numpy()[:count].all() and (np.diff(drawn) > 0).all()
        np.testing.assert_array_equal(x, y)
        counts.append(count)
    assert max(counts) == 25 and min(counts) < 20
    share = np.mean(np.array(counts) == 25)
    expected = stats.binom.sf(24, 200, 0.1)
    assert abs(share - expected) < 5 * np.sqrt(expected / 300)


def test_the_cut_leaves_a_uniformly_random_subset():
    num_examples, capacity, count = 30, 10, 3000
    data = sampling.PoissonDataset(
        np.arange(num_examples), expected_batch_size=10, capacity=capacity
    )
    drawn = np.zeros(num_examples)
    pairs = np.zeros((num_examples, num_examples))
    total = 0
    for batch in data.as_batches(count):
        indices = batch.examples[0].numpy()[batch.valid.numpy()]
        drawn[indices] += 1
        pairs[np.ix_(indices, indices)] += 1
        total += len(indices)
    expected = total / num_examples
    # Inclusions exclude each other a little, so that the statistic is below chi-square's.
    assert stats.chi2.sf(((drawn - expected) ** 2 / expected).sum(), num_examples - 1) > 1e-4
    off_diagonal = pairs[~np.eye(num_examples, dtype=bool)]
    spread = off_diagonal.std() / np.sqrt(off_diagonal.mean())
    assert 0.7 < spread < 1.3


def model():
    return keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(6, activation="tanh"),
            keras.layers.Dropout(0.0),
            keras.layers.Dense(3),
        ]
    )


def trained(physical_batch_size=4, noise_multiplier=0.0, **arguments):
    options = {key: arguments.pop(key) for key in ("jit_compile",) if key in arguments}
    keras.utils.set_random_seed(4)
    plain = model()
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 5)).astype("float32"), rng.integers(0, 3, 40)
    data = sampling.PoissonDataset(x, y, expected_batch_size=8, seed=2, **arguments)
    private = make_private(plain, physical_batch_size=physical_batch_size)
    private.compile(
        SGD(0.5, noise_multiplier, learning_rate=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        gradient_norm_metrics=True,
        **options,
    )
    history = private.fit(data, epochs=3, verbose=0).history
    return [variable.numpy() for variable in plain.trainable_variables], history, private


@pytest.mark.parametrize(
    ("physical_batch_size", "options"),
    [(1, {}), (4, {}), (7, {}), (64, {}), (7, {"jit_compile": True})],
)
def test_padding_changes_neither_updates_nor_metrics(physical_batch_size, options):
    weights, history, _ = trained(physical_batch_size)
    padded, padded_history, private = trained(physical_batch_size, capacity=23, **options)
    reference.assert_close(padded, weights)
    for name in ("loss", "accuracy"):  # Medians and fractions are means over physical batches.
        np.testing.assert_allclose(padded_history[name], history[name], rtol=1e-5)
    assert np.isfinite(padded_history["gradient_norm_median"]).all()
    assert private.ledger.releases[0].details["sampling"].startswith("Poisson, cut to")


def test_the_truncation_is_in_the_accounting():
    _, _, private = trained(noise_multiplier=1.0, capacity=10)
    ledger = tfdp.accounting.PrivacyLedger()
    ledger.charge(tfdp.accounting.truncated_dp_sgd_event(1.0, 0.2, 40, 10), 15)
    for accountant in ("rdp", "pld"):
        assert private.ledger.epsilon(1e-3, accountant) == ledger.epsilon(1e-3, accountant)
    poisson = tfdp.accounting.epsilon(1.0, 0.2, 15, 1e-3, "pld")
    assert private.ledger.epsilon(1e-3, "pld") >= poisson * (1 - 1e-3)


def test_the_whole_step_compiles_with_xla():
    plain = model()
    private = make_private(plain, physical_batch_size=4)
    private.compile(SGD(0.5, 1.0, learning_rate=1.0), loss="mse")
    data = sampling.PoissonDataset(
        np.ones((40, 5)), np.ones((40, 3)), expected_batch_size=8, capacity=12
    )
    private.fit(data, verbose=0)
    batch = next(iter(data.as_batches(1)))
    loss_fn = tfdp.clipping.PerExampleLoss(private._compile_loss)

    @tf.function(jit_compile=True, autograph=False)
    def clipped_sum(batch):
        return sampling.sum_over_physical_batches(
            batch,
            4,
            lambda part: private._engine(*part.examples, loss_fn, valid=part.valid).sums,
            [tf.zeros(v.shape) for v in plain.trainable_variables],
            static=True,
        )

    before = reference.gradients(
        plain, keras.losses.MeanSquaredError(), *(part[batch.valid] for part in batch.examples[:2])
    )
    reference.assert_close(clipped_sum(batch), reference.clipped_sum(before, 0.5))


def test_noise_optimizer_and_metrics_compile_with_it_as_a_tpu_needs():
    data = sampling.PoissonDataset(
        np.ones((40, 5)), np.ones((40, 3)), expected_batch_size=8, capacity=12
    )
    batch = next(iter(data.as_batches(1)))
    found = []
    for compiled in (False, True):
        keras.utils.set_random_seed(1)
        plain = model()
        private = make_private(plain, physical_batch_size=4)
        private.compile(SGD(0.5, 0.0, learning_rate=1.0, momentum=0.9), loss="mse", metrics=["mae"])
        private.fit(data, verbose=0, epochs=0)
        private.optimizer.build(plain.trainable_variables)
        private._set_mechanism(private._mechanism_of(data.scheme), data)
        step = tf.function(private.train_step, jit_compile=compiled, autograph=False)
        step(batch)
        logs = step(batch)
        found.append([*(v.numpy() for v in plain.trainable_variables), *logs.values()])
    reference.assert_close(found[1], found[0])


@pytest.mark.parametrize("capacity", [0, 7, 2.5, float("nan"), "auto"])
def test_bad_capacities_are_named(capacity):
    with pytest.raises((TypeError, ValueError), match="capacity="):
        sampling.PoissonDataset(np.zeros((40, 5)), expected_batch_size=8, capacity=capacity)
