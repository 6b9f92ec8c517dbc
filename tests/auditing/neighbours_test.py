"""The comparison of neighbours: what it measures, and that it finds each kind of fault."""

import json
import re

import dp_accounting
import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdp
from tfdp.auditing import compare_neighbours
from tfdp.noise import GaussianNoise

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(24, 6)).astype("float32")
Y = RANDOM.integers(0, 3, 24)
X[-1] *= 4
ROUNDS, SIGMA, SIZE = 6, 2.0, 1000
VECTORS = tf.math.l2_normalize(RANDOM.normal(size=(5, SIZE)), axis=1)
KEY = tf.constant([1, 2], tf.int64)


class Sums:
    """A pipeline that releases noisy sums of vectors of norm 1; subclasses have faults."""

    sensitivities = (1.0,)

    def __call__(self):
        self.ledger, self.noise = tfdp.accounting.PrivacyLedger(), GaussianNoise()
        self.charge()
        return self.ledger, [self.release(self.total(), number) for number in range(ROUNDS)]

    def charge(self):
        self.ledger.charge(dp_accounting.GaussianDpEvent(SIGMA), ROUNDS)

    def total(self):
        chosen = tfdp.sampling.poisson_indices(len(VECTORS), 1.0, KEY)
        return tf.reduce_sum(tf.gather(VECTORS, chosen), axis=0)

    def release(self, total, number):
        return self.noise.add([total], SIGMA)[0]


def compared(pipeline):
    return compare_neighbours(pipeline, sensitivities=list(pipeline.sensitivities))


def test_a_right_pipeline_passes_and_its_figures_are_those_it_has():
    pipeline = Sums()
    report = compared(pipeline)
    assert report.passed and report.violations == ()
    assert len(report.crossings) == ROUNDS
    for crossing in report.crossings:
        assert crossing.distance == pytest.approx(1.0)
        assert (crossing.place, crossing.sensitivity, crossing.stddev, crossing.numbers) == (
            (0, 1.0, SIGMA, SIZE)
        )
    assert report.charged == report.drawn == ((SIGMA, ROUNDS),)
    assert "noise was added 6 times, 6 events were charged" in str(report)
    assert json.loads(report.to_json())["crossings"][0]["sensitivity"] == 1.0
    assert len(report.picture().axes) == 1
    assert "the randomness was known" in pipeline.ledger.not_private_reasons[0]


def test_another_seed_draws_other_noise_and_the_same_seed_the_same():
    drawn = []

    class Kept(Sums):
        def release(self, total, number):
            drawn.append(super().release(total, number).numpy())
            return drawn[-1]

    for seed in (1, 1, 2):
        assert compare_neighbours(Kept(), sensitivities=[1.0], seed=seed).passed
    runs = np.array(drawn).reshape(3, 2, ROUNDS, SIZE)
    np.testing.assert_array_equal(runs[:, 0], runs[:, 1])  # Both of a comparison.
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[1] != runs[2]).all()


class TooSensitive(Sums):
    """place 0: one example moved the values by 1.01, .* declared sensitivity 1, at 6 of 6"""

    def total(self):
        return 1.01 * super().total()


class NotANumber(Sums):
    """place 0: one example moved the values by nan"""

    def total(self):
        total = super().total()
        missing = tfdp.sampling.poisson_indices(len(VECTORS), 1.0, KEY).shape[0] == 4
        return total * np.nan if missing else total


class Unmoved(Sums):
    """place 0: the last example moved nothing"""

    def total(self):
        return tf.reduce_sum(VECTORS, axis=0)


class AnotherPlace(Sums):
    """noise was added at 2 places, sensitivities were declared for 1"""

    def release(self, total, number):
        return super().release(total if number else total[:9], number)


class DependentCount(Sums):
    """noise was added 12 times with the last example and 6 times without it"""

    def total(self):
        chosen = tfdp.sampling.poisson_indices(len(VECTORS), 1.0, KEY)
        if chosen.shape[0] == len(VECTORS):
            self.noise.add([tf.gather(VECTORS, 0)], SIGMA)
        return super().total()


class DependentNoise(Sums):
    """crossing 0 is not the same with and without the last"""

    def release(self, total, number):
        chosen = tfdp.sampling.poisson_indices(len(VECTORS), 1.0, KEY)
        return self.noise.add([total], SIGMA * chosen.shape[0])[0]


class DependentCharge(Sums):
    """with the last example .* is charged, without it"""

    def charge(self):
        chosen = tfdp.sampling.poisson_indices(len(VECTORS), 1.0, KEY)
        event = dp_accounting.GaussianDpEvent(SIGMA)
        self.ledger.charge(event, ROUNDS - (chosen.shape[0] < len(VECTORS)))


class AroundTheNoise(Sums):
    """1 of 6 released arrays differ"""

    def release(self, total, number):
        released = super().release(total, number)
        return released if number else released / tf.norm(total)


class ChargedTooSeldom(Sums):
    """noise multiplier 2: 5 events were charged, and such noise was drawn 6 times"""

    def charge(self):
        self.ledger.charge(dp_accounting.GaussianDpEvent(SIGMA), ROUNDS - 1)


class ChargedTooLittle(Sums):
    """noise multiplier 2.1: 6 events were charged, and such noise was drawn 0 times"""

    def charge(self):
        event = dp_accounting.PoissonSampledDpEvent(0.1, dp_accounting.GaussianDpEvent(2.1))
        self.ledger.charge(event, ROUNDS)


class NotGaussian(Sums):
    """6 charged events are not Gaussian"""

    def charge(self):
        self.ledger.charge(dp_accounting.LaplaceDpEvent(SIGMA), ROUNDS)


class NoNoise(Sums):
    """noise multiplier 2: 6 events were charged, and such noise was drawn 0 times"""

    def release(self, total, number):
        return self.noise.add([total], 0.0)[0]


class DrawnOnce(Sums):
    """is not drawn anew each time"""

    def release(self, total, number):
        self.noise._calls.assign(0)
        return super().release(total, number)


class DrawnOnceForOneNumber(DrawnOnce):
    """noise on 1 numbers is not drawn anew each time"""

    def total(self):
        chosen = tfdp.sampling.poisson_indices(len(VECTORS), 1.0, KEY)
        return tf.cast(tf.size(chosen), tf.float32)


class TooSmall(Sums):
    """place 0: the noise has 0\\.[89]\\d* times the standard deviation"""

    def noisy(self, tensor, stddev, seed):
        share = 0.9 * stddev
        return tensor + tf.random.stateless_normal(tensor.shape, seed, 0.0, share, tf.float64)

    def __call__(self):
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(GaussianNoise, "_noisy", type(self).noisy)
            return super().__call__()


class Uniform(TooSmall):
    """place 0: the noise is not normal"""

    def noisy(self, tensor, stddev, seed):
        width = stddev * 3**0.5
        return tensor + tf.random.stateless_uniform(tensor.shape, seed, -width, width, tf.float64)


def kinds(kind):
    return [kind, *(further for child in kind.__subclasses__() for further in kinds(child))]


@pytest.mark.parametrize("kind", kinds(Sums)[1:])
def test_each_fault_is_found_and_named(kind):
    report = compared(kind())
    assert not report.passed
    assert re.search(kind.__doc__, "\n".join(report.violations)), report.violations
    assert "VIOLATION: " + report.violations[0] in str(report)


# Pipelines of all kinds.


def conv():
    return keras.Sequential(
        [
            keras.layers.Reshape((2, 3, 1)),
            keras.layers.Conv2D(4, 2, activation="tanh"),
            keras.layers.Dropout(0.5),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )


def private(model, num_microbatches=None, compiled=(), secure_noise=False, **kwargs):
    made = tfdp.make_private(model, **kwargs)
    made.compile(
        tfdp.optimizers.VectorizedDPKerasAdamOptimizer(
            0.5, SIGMA, num_microbatches, secure_noise=secure_noise
        ),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **dict(compiled),
    )
    return made


def poisson(**kwargs):
    return tfdp.sampling.PoissonDataset(X, Y, expected_batch_size=20, steps_per_epoch=3, **kwargs)


def with_a_capacity():
    made = private(conv(), physical_batch_size=8)
    made.fit(poisson(capacity=24), verbose=0)
    return made


def from_a_source_and_several_steps_at_a_time():
    made = private(conv(), physical_batch_size=1, compiled={"steps_per_execution": 2})
    source = tfdp.sampling.PoissonDataset.from_source(
        list(zip(X, Y, strict=True)), expected_batch_size=20, steps_per_epoch=3
    )
    made.fit(source, verbose=0)
    return made


def with_secure_noise():
    made = private(keras.Sequential([keras.layers.Dense(3)]), secure_noise=True)
    made.fit(poisson(), verbose=0)
    return made


def with_groups():
    made = private(keras.Sequential([keras.layers.Dense(3)]), num_microbatches=5)
    made.fit(poisson(), verbose=0)
    return made


def eagerly_with_batches_of_the_caller():
    made = private(conv(), expected_batch_size=20, compiled={"run_eagerly": True})
    for x, y in poisson():
        made.train_on_batch(x, y)
    return made


def saliency():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4), keras.layers.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    selection = tfdp.saliency.select(
        model,
        loss,
        (X, Y),
        l2_norm_clip=0.5,
        score_noise_multiplier=SIGMA,
        sampling_probability=0.9,
        candidates="all_matrices",
        physical_batch_size=7,
    )
    ledger = tfdp.accounting.PrivacyLedger()
    selection.charge(ledger)
    return ledger, list(selection.scores.values())


def statistics():
    found = tfdp.statistics.measure(
        X, l2_norm_clip=3.0, noise_multiplier=SIGMA, num_directions=2, centred_norm_clip=0.5
    )
    ledger = tfdp.accounting.PrivacyLedger()
    found.charge(ledger)
    return ledger, (found.mean, found.directions, found.variances)


@pytest.mark.parametrize(
    ("pipeline", "sensitivities", "reached"),
    [
        (with_a_capacity, [0.5], 0.999),
        (from_a_source_and_several_steps_at_a_time, [0.5], 0.999),
        (with_secure_noise, [0.5], 0.999),
        (with_groups, [1.0], 0.1),
        (eagerly_with_batches_of_the_caller, [0.5], 0.999),
        (saliency, [0.25], 0.7),
        (statistics, [3.0, 0.25], 0.999),
    ],
)
def test_pipelines_of_all_kinds_keep_what_they_declare(pipeline, sensitivities, reached):
    report = compare_neighbours(pipeline, sensitivities=sensitivities)
    assert report.passed, str(report)
    assert max(c.distance / c.sensitivity for c in report.crossings) > reached


# Faults of what users write.


class OwnDense(keras.layers.Dense):
    pass


class TooShort(tfdp.clipping.Instantiated):
    def squared_norm(self):
        return super().squared_norm() / 4


@tfdp.clipping.register_rule(OwnDense)
class OwnRule(tfdp.clipping.Rule):
    def gradients(self, call, cotangent, context):
        yield call.layer.kernel, TooShort(call.input[:, :, None] * cotangent[:, None, :])
        yield call.layer.bias, TooShort(cotangent)


class NoNoiseOnTheScore(tfdp.callbacks.NoisyThreshold):
    def accept(self, evaluation, prepared):
        indices, before = prepared
        return self.score(before, evaluation.losses(indices), evaluation.num_examples) < 0


def with_a_wrong_rule():
    made = private(keras.Sequential([OwnDense(3)]))
    made.fit(poisson(), verbose=0)
    return made


def with_decisions_without_noise():
    made = private(keras.Sequential([keras.layers.Dense(3)]))
    rule = NoNoiseOnTheScore(difference="examples", sampling_probability=0.9)
    made.fit(poisson(), verbose=0, callbacks=[tfdp.callbacks.UpdateScreening(rule, (X, Y))])
    return made


@pytest.mark.parametrize(
    ("pipeline", "sensitivities", "message"),
    [
        (with_a_wrong_rule, [0.5], "moved the values by 1, more than the declared sensitivity 0.5"),
        (
            with_decisions_without_noise,
            [0.5, 1 / 21.6],
            "multiplier 1: 3 events were charged, and such noise was drawn 0 times",
        ),
    ],
)
def test_faults_of_what_users_write_are_found(pipeline, sensitivities, message):
    report = compare_neighbours(pipeline, sensitivities=sensitivities)
    assert message in "\n".join(report.violations), str(report)
