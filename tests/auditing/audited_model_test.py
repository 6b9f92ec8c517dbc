"""Audits of training by tfdp, with the noise and clipping it should have and without."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdp
from tfdp.auditing import AuditedModel
from tfdp.auditing.directions import RandomDirections, SingleWeights
from tfdp.clipping import bounds
from tfdp.noise import GaussianNoise

DELTA = 1e-5
EXAMPLES, STEPS = 60, 4


def data():
    random = np.random.default_rng(0)
    return random.normal(size=(EXAMPLES, 40)).astype("float32"), random.integers(0, 20, EXAMPLES)


def tiny_model():
    return keras.Sequential(
        [keras.Input((40,)), keras.layers.Dense(20, "tanh"), keras.layers.Dense(20)]
    )


def audited(canaries=200, noise_multiplier=1.0, l2_norm_clip=0.5, **kwargs):
    model = AuditedModel(tiny_model(), canaries=canaries, **kwargs)
    model.compile(
        tfdp.optimizers.VectorizedDPKerasSGDOptimizer(
            l2_norm_clip, noise_multiplier, learning_rate=0.1
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


#: Noise multipliers at which four steps on all examples, or on half of them, have about an epsilon.
NOISE = {(1, EXAMPLES): 8.6, (2, EXAMPLES): 4.5, (8, EXAMPLES): 1.3, (8, EXAMPLES // 2): 0.95}


def audit_of_training(epsilon, batch_size=EXAMPLES, **kwargs):
    model = audited(noise_multiplier=NOISE[epsilon, batch_size], **kwargs)
    model.fit(*data(), batch_size=batch_size, steps_per_epoch=STEPS, verbose=0)
    audit = model.audit(DELTA)
    assert 0.9 * epsilon < audit.claimed_epsilon <= epsilon
    return audit


def without_noise(monkeypatch):
    monkeypatch.setattr(GaussianNoise, "add", lambda self, tensors, *_: list(tensors))


def with_a_tenth_of_the_noise(monkeypatch):
    add = GaussianNoise.add
    monkeypatch.setattr(
        GaussianNoise, "add", lambda self, tensors, stddev, *rest: add(self, tensors, stddev / 10)
    )


def without_clipping(monkeypatch):
    monkeypatch.setattr(bounds, "clip_factors", lambda norms, *_: tf.ones_like(norms))


@pytest.mark.parametrize(
    ("epsilon", "options"),
    [
        (2, {}),
        (8, {"direction": "single_weights", "canaries": 1000}),
        (8, {"batch_size": EXAMPLES // 2}),
        (8, {"examples_known": False}),
    ],
)
def test_honest_training_is_not_contradicted(epsilon, options):
    audit = audit_of_training(epsilon, **options)
    assert not audit.contradicts_claim and audit.epsilon_lower_bound <= audit.claimed_epsilon


def test_much_of_the_epsilon_of_honest_training_is_found():
    audit = audit_of_training(8, direction="single_weights", canaries=1000)
    assert 2 < audit.epsilon_lower_bound < 8


@pytest.mark.parametrize("direction", ["random", "single_weights"])
@pytest.mark.parametrize("mistake", [without_noise, with_a_tenth_of_the_noise, without_clipping])
def test_a_mistake_is_caught(mistake, direction, monkeypatch):
    mistake(monkeypatch)
    audit = audit_of_training(1, direction=direction)
    assert audit.contradicts_claim, audit


def test_missing_noise_is_caught_by_someone_who_does_not_know_the_examples(monkeypatch):
    without_noise(monkeypatch)
    audit = audit_of_training(1, direction="single_weights", examples_known=False)
    assert audit.contradicts_claim, audit


@pytest.mark.parametrize("direction", ["random", "single_weights"])
def test_scores_count_the_steps_that_sampled_the_canary(direction):
    model = audited(canaries=50, noise_multiplier=0.0, direction=direction)
    x, y = data()
    model.fit(x, y, batch_size=EXAMPLES // 4, steps_per_epoch=40, verbose=0)
    scores, included = model.scores, model.included
    np.testing.assert_allclose(scores[~included], 0, atol=1e-4)
    np.testing.assert_allclose(scores, np.round(scores), atol=1e-4)
    count = included.sum()
    # 40 steps at probability 1/4, four standard deviations of the mean.
    assert scores[included].mean() == pytest.approx(10, abs=4 * math.sqrt(7.5 / count))


@pytest.mark.parametrize("clip", [0.5, [0.3, 0.4]])
@pytest.mark.parametrize("direction", ["random", "single_weights"])
def test_a_canary_is_clipped_as_an_example_is(clip, direction):
    model = audited(canaries=2, l2_norm_clip=clip, direction=direction)
    model.included = np.array([True, False])
    tensors = model._canaries_of_step(1.0)
    squares = [float(tf.reduce_sum(t**2)) for t in tensors]
    layers = math.sqrt(squares[0] + squares[1]), math.sqrt(squares[2] + squares[3])
    if direction == "random":
        expected = clip if isinstance(clip, list) else None
        assert math.hypot(*layers) == pytest.approx(0.5, rel=1e-5)
        assert expected is None or layers == pytest.approx(expected, rel=1e-5)
    else:
        allowed = clip if isinstance(clip, list) else [clip, clip]
        assert min(layers) == 0 and max(layers) in [pytest.approx(a) for a in allowed]


def test_examples_train_as_they_do_without_an_audit():
    def change(make):
        keras.utils.set_random_seed(0)
        private = make(tiny_model(), expected_batch_size=EXAMPLES)
        private.compile(
            tfdp.optimizers.VectorizedDPKerasSGDOptimizer(0.5, 0.0, learning_rate=1.0),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        before = private.model.get_weights()
        private.train_on_batch(*data())
        after = private.model.get_weights()
        change = [a - b for a, b in zip(after, before, strict=True)]
        return private, change

    _, plain = change(tfdp.make_private)
    private, with_canaries = change(lambda model, **kw: AuditedModel(model, canaries=9, **kw))
    for one, other, canary in zip(
        plain, with_canaries, private._canaries_of_step(1.0), strict=True
    ):
        np.testing.assert_allclose(other, one - canary / EXAMPLES, atol=1e-6)


@pytest.mark.parametrize("kind", [RandomDirections, SingleWeights])
def test_directions_are_orthogonal_unit_vectors(kind):
    shapes, count = [(3, 4), (), (5,)], 11
    found = kind(shapes, count, np.random.default_rng(0))
    vectors = []
    for index in range(count):
        weight = tf.one_hot(index, count)
        tensors = found.combined([weight] * 3)
        assert [tuple(t.shape) for t in tensors] == shapes
        vectors.append(np.concatenate([np.ravel(t) for t in tensors]))
        np.testing.assert_allclose(found.along(tensors), weight, atol=1e-6)
        squares = [float(tf.reduce_sum(t**2)) for t in tensors]
        np.testing.assert_allclose([n[index] for n in found.squared_norms], squares, atol=1e-6)
    np.testing.assert_allclose(np.array(vectors) @ np.array(vectors).T, np.eye(count), atol=1e-6)


def test_coins_are_fair_and_fresh_unless_a_seed_is_given():
    coins = [
        AuditedModel(tiny_model(), canaries=1000, direction="single_weights").included
        for _ in range(2)
    ]
    assert (coins[0] != coins[1]).any()
    assert all(400 < c.sum() < 600 for c in coins)
    same = [AuditedModel(tiny_model(), canaries=20, seed=3).included for _ in range(2)]
    np.testing.assert_array_equal(*same)


def test_without_a_guarantee_nothing_is_claimed():
    model = audited(canaries=2)
    model.ledger.mark_not_private("a test")
    model.fit(*data(), batch_size=EXAMPLES, verbose=0)
    assert model.audit(DELTA).claimed_epsilon is None


def test_what_cannot_be_audited_is_refused():
    with pytest.raises(ValueError, match="at most 1240.*canaries=1241"):
        AuditedModel(tiny_model(), canaries=1241)
    with pytest.raises(ValueError, match="not built"):
        AuditedModel(keras.Sequential([keras.layers.Dense(2)]), canaries=2)
    with pytest.raises(ValueError, match="l2_norm_clip=inf"):
        audited(l2_norm_clip=math.inf, noise_multiplier=0.0)
    with pytest.raises(ValueError, match="before training"):
        audited(canaries=2).audit(DELTA)
    model = audited(canaries=2)
    with pytest.raises(NotImplementedError, match="not to be saved"):
        model.get_config()
    batches = tf.data.Dataset.from_tensor_slices(data()).shuffle(EXAMPLES).batch(10)
    shuffled = tfdp.sampling.declare(
        batches, num_examples=EXAMPLES, batch_size=10, sampling="shuffled"
    )
    with pytest.raises(ValueError, match="'shuffled'"):
        model.fit(shuffled, verbose=0)
    with pytest.raises(ValueError, match="num_microbatches=2"):
        model.compile(
            tfdp.optimizers.VectorizedDPKerasSGDOptimizer(1.0, 1.0, num_microbatches=2), "mse"
        )


def test_directions_that_do_not_fit_into_memory_are_refused_before_they_are_drawn(monkeypatch):
    monkeypatch.setattr("tfdp.auditing.directions.LARGEST", 1240 * 10)
    with pytest.raises(ValueError, match="over 1 GiB.*canaries=11"):
        AuditedModel(tiny_model(), canaries=11)
    assert AuditedModel(tiny_model(), canaries=11, direction="single_weights").built
