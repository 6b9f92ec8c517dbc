"""Canaries among the examples, in one run and in many."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdp
from tfdp.auditing import (
    InsertedCanaries,
    mislabelled_canaries,
    one_run_audit,
    random_canaries,
    repeated_runs_audit,
    scores_of_runs,
)
from tfdp.clipping import bounds
from tfdp.noise import GaussianNoise

DELTA = 1e-5
CANARIES = 300


def linear_model(features):
    layer = keras.layers.Dense(2, use_bias=False, kernel_initializer="zeros")
    return keras.Sequential([keras.Input((features,)), layer])


def compiled(model, noise_multiplier, **kwargs):
    private = tfdp.make_private(model, **kwargs)
    private.compile(
        tfdp.optimizers.VectorizedDPKerasSGDOptimizer(1.0, noise_multiplier, learning_rate=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return private


def outliers():
    """Canaries with long gradients, each in a feature of its own: what an attacker would send."""
    random = np.random.default_rng(0)
    return InsertedCanaries(
        20 * np.eye(CANARIES, dtype="float32"),
        random.integers(0, 2, CANARIES),
        random.random(CANARIES) < 0.5,
    )


#: Noise multipliers at which two steps on all examples have about an epsilon.
NOISE = {1: 6.1, 8: 0.95}


def audit_of_training(epsilon):
    canaries = outliers()
    x, y = canaries.insert(np.zeros((50, CANARIES), "float32"), np.zeros(50, int))
    private = compiled(linear_model(CANARIES), NOISE[epsilon])
    before = canaries.scores(private.model)
    private.fit(x, y, batch_size=len(x), steps_per_epoch=2, verbose=0)
    return one_run_audit(
        canaries.scores(private.model) - before,
        canaries.included,
        delta=DELTA,
        claimed_epsilon=private.ledger.epsilon(DELTA),
    )


@pytest.mark.parametrize("epsilon", NOISE)
def test_honest_training_is_not_contradicted(epsilon):
    audit = audit_of_training(epsilon)
    assert 0.9 * epsilon < audit.claimed_epsilon <= epsilon
    assert not audit.contradicts_claim, audit


def test_some_of_the_epsilon_of_honest_training_is_found():
    assert audit_of_training(8).epsilon_lower_bound > 1.0


def test_missing_clipping_is_caught(monkeypatch):
    monkeypatch.setattr(bounds, "clip_factors", lambda norms, *_: tf.ones_like(norms))
    audit = audit_of_training(1)
    assert audit.contradicts_claim, audit


def test_missing_noise_is_caught(monkeypatch):
    monkeypatch.setattr(GaussianNoise, "add", lambda self, tensors, *_: list(tensors))
    audit = audit_of_training(1)
    assert audit.contradicts_claim, audit


def audit_of_runs(epsilon, runs):
    """Audits one step, over and over, by the weight that an example alone moves."""
    noise_multiplier = tfdp.accounting.noise_multiplier(epsilon, 1.0, 1, DELTA)
    private = compiled(linear_model(5), noise_multiplier, expected_batch_size=10)
    x, y = np.zeros((10, 5), "float32"), np.zeros(10, int)
    x[-1, -1] = 100.0
    initial = private.model.get_weights()

    def train(with_example):
        private.model.set_weights(initial)
        count = len(x) if with_example else len(x) - 1
        private.train_on_batch(x[:count], y[:count])
        weights = private.model.get_weights()[0] - initial[0]
        return weights[-1, 0] - weights[-1, 1]

    return repeated_runs_audit(*scores_of_runs(train, runs), delta=DELTA, claimed_epsilon=epsilon)


def test_repeated_honest_training_is_not_contradicted():
    audit = audit_of_runs(4.0, 600)
    assert not audit.contradicts_claim
    assert 0.5 * 4 < audit.gaussian_epsilon_lower_bound <= 4


def test_repeated_training_without_noise_is_caught(monkeypatch):
    monkeypatch.setattr(GaussianNoise, "add", lambda self, tensors, *_: list(tensors))
    audit = audit_of_runs(1.0, 60)
    assert audit.contradicts_claim, audit


def test_repeated_training_without_clipping_is_caught(monkeypatch):
    monkeypatch.setattr(bounds, "clip_factors", lambda norms, *_: tf.ones_like(norms))
    audit = audit_of_runs(1.0, 60)
    assert audit.contradicts_claim, audit


def test_those_whose_coins_say_so_are_inserted():
    x, y = np.arange(24.0, dtype="float32").reshape(6, 2, 2), np.arange(6)
    coins = np.array([True, False, True, False, True, False])
    canaries = InsertedCanaries(x + 100, y % 3, coins)
    more, labels = canaries.insert(x, y)
    np.testing.assert_array_equal(more, np.concatenate([x, x[::2] + 100]))
    np.testing.assert_array_equal(labels, [*range(6), 0, 2, 1])
    assert more.dtype == x.dtype
    with pytest.raises(ValueError, match="`x` must be inputs of the shape"):
        canaries.insert(x[:, :1], y)
    with pytest.raises(ValueError, match="uint8"):
        canaries.insert(x.astype("uint8"), y)


def test_mislabelled_canaries_have_another_class_and_no_example_twice():
    x, y = np.arange(500.0)[:, None], np.arange(500) % 7
    canaries = mislabelled_canaries(x, y, 400, 7)
    original = canaries.x[:, 0].astype(int)
    assert len(set(original)) == len(canaries) == 400
    assert (canaries.y != original % 7).all()
    assert set(canaries.y) == set(range(7))
    assert 150 < canaries.included.sum() < 250


def test_random_canaries_are_uniform_noise():
    canaries = random_canaries((4, 4, 1), 300, 5, seed=1)
    assert canaries.x.dtype == np.float32 and canaries.x.shape == (300, 4, 4, 1)
    assert 0 <= canaries.x.min() and canaries.x.max() < 1
    assert canaries.x.mean() == pytest.approx(0.5, abs=0.02)
    assert set(canaries.y) == set(range(5))
    np.testing.assert_array_equal(
        canaries.included, random_canaries((4, 4, 1), 300, 5, seed=1).included
    )
    other = random_canaries((4, 4, 1), 300, 5)
    assert (canaries.included != other.included).any()
