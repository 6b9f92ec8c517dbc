"""Screening: what is decided, what is undone, what is charged, what is said."""

import dp_accounting
import keras
import numpy as np
import pytest
import tensorflow as tf
from dp_accounting.rdp import RdpAccountant
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import tfdp
from tfdp import accounting, callbacks, optimizers, sampling
from tfdp.sampling.rows import ArrayRows

SGD = optimizers.VectorizedDPKerasSGDOptimizer
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(80, 4)).astype("float32"), RNG.integers(0, 3, 80)
PUBLIC = sampling.public(X[:20], Y[:20])
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Scripted(callbacks.ScreeningRule):
    """Keeps updates as it is told, in turn."""

    def __init__(self, *answers):
        super().__init__()
        self.answers = tf.constant(answers)
        self.state["asked"] = tf.Variable(0, trainable=False)

    def accept(self, evaluation, prepared):
        answer = self.answers[self.state["asked"] % len(self.answers)]
        self.state["asked"].assign_add(1)
        return answer


class Snapshots(keras.callbacks.Callback):
    """Weights and optimizer state around every step."""

    def __init__(self):
        super().__init__()
        self.before, self.after = [], []

    def _now(self):
        variables = [*self.model.trainable_variables, *self.model.optimizer.variables]
        return [variable.numpy() for variable in variables]

    def on_train_batch_begin(self, batch, logs=None):
        self.before.append(self._now())

    def on_train_batch_end(self, batch, logs=None):
        self.after.append(self._now())


def private_model(optimizer=None, **options):
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(5, activation="tanh"), keras.layers.Dense(3)]
    )
    private = tfdp.make_private(model)
    private.compile(optimizer or SGD(1.0, 2.0, learning_rate=0.1), loss=LOSS, **options)
    return private


def fit(private, *used, **options):
    return private.fit(
        X[20:], Y[20:], callbacks=list(used), **{"batch_size": 12, "verbose": 0, **options}
    ).history


# What is undone.


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda: SGD(1.0, 2.0, learning_rate=0.1, momentum=0.9),
        lambda: optimizers.VectorizedDPKerasAdamOptimizer(1.0, 2.0),
    ],
)
def test_a_rejected_update_is_undone_bit_for_bit(optimizer):
    private, snapshots = private_model(optimizer()), Snapshots()
    screening = callbacks.UpdateScreening(Scripted(True, False, False), PUBLIC)
    fit(private, screening, snapshots, epochs=3)
    assert len(snapshots.before[0]) == len(snapshots.after[0])
    for number, (before, after) in enumerate(zip(snapshots.before, snapshots.after, strict=True)):
        equal = [np.array_equal(b, a) for b, a in zip(before, after, strict=True)]
        assert all(equal) == (number % 3 != 0)
    assert len(snapshots.before) == 15


def test_the_state_of_the_optimizer_can_be_left_as_it_is():
    private, snapshots = private_model(SGD(1.0, 2.0, momentum=0.9)), Snapshots()
    screening = callbacks.UpdateScreening(Scripted(False), PUBLIC, restore_optimizer=False)
    fit(private, screening, snapshots)
    weights = len(private.trainable_variables)
    for before, after in zip(snapshots.before, snapshots.after, strict=True):
        equal = [np.array_equal(b, a) for b, a in zip(before, after, strict=True)]
        assert all(equal[:weights]) and not all(equal[weights:])


def unchanged(snapshots):
    """Whether each step left everything as it was before."""
    return [
        all(np.array_equal(b, a) for b, a in zip(before, after, strict=True))
        for before, after in zip(snapshots.before, snapshots.after, strict=True)
    ]


def test_whole_epochs_are_kept_or_undone():
    private, snapshots = private_model(SGD(1.0, 2.0, momentum=0.9)), Snapshots()
    screening = callbacks.UpdateScreening(Scripted(True, False), PUBLIC, each="epoch")
    history = fit(private, screening, snapshots, epochs=4)
    assert len(snapshots.before) == 20 and not any(unchanged(snapshots)[:9])
    for epoch, kept in enumerate([True, False, True, False]):
        start, end = snapshots.before[5 * epoch], snapshots.after[5 * epoch + 4]
        equal = [np.array_equal(a, b) for a, b in zip(start, end, strict=True)]
        assert all(equal) is (not kept)
    assert history["trials"] == [1, 2, 3, 4] and history["acceptance_rate"][-1] == 0.5
    assert private.ledger.epsilon(1e-3) == pytest.approx(rdp_epsilon(1e-3, (2.0, 0.2, 20)), 1e-4)


def test_after_so_many_decisions_everything_is_kept():
    private, snapshots = private_model(), Snapshots()
    screening = callbacks.UpdateScreening(Scripted(False), PUBLIC, decisions=7)
    history = fit(private, screening, snapshots, epochs=2)
    assert unchanged(snapshots) == [True] * 7 + [False] * 3
    assert history["trials"] == [5, 7]
    assert private.ledger.epsilon(1e-3) == pytest.approx(rdp_epsilon(1e-3, (2.0, 0.2, 10)), 1e-4)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ((X, Y), {"each": "epoch"}, "each='epoch'"),
        ((X, Y), {"decisions": 3}, "decisions=3"),
        (PUBLIC, {"each": "epoch", "charge": "accepted"}, "each='epoch', charge='accepted'"),
    ],
)
def test_only_single_steps_are_decided_on_where_these_are_charged(data, options, message):
    with pytest.raises(ValueError, match=message):
        callbacks.UpdateScreening(callbacks.NoisyThreshold(), data, **options)


# What is charged.


def rdp_epsilon(delta, *charged):
    accountant = RdpAccountant(accounting.RDP_ORDERS)
    for sigma, q, count in charged:
        event = dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(sigma))
        accountant.compose(event, count)
    return accountant.get_epsilon(delta)


def test_every_trial_is_charged_and_decisions_on_public_data_are_free():
    private = private_model()
    history = fit(private, callbacks.UpdateScreening(Scripted(False, True), PUBLIC), epochs=2)
    assert private.ledger.epsilon(1e-3) == pytest.approx(rdp_epsilon(1e-3, (2.0, 0.2, 10)), 1e-4)
    assert private.privacy_statement(1e-3).is_private
    assert history["trials"] == [5, 10] and history["acceptance_rate"] == [0.4, 0.5]


@pytest.mark.parametrize("difference", ["mean", "examples"])
def test_trials_and_scores_of_private_data_are_both_charged(difference):
    private = private_model()
    rule = callbacks.NoisyThreshold(
        noise_multiplier=1.5, sampling_probability=0.3, difference=difference
    )
    history = fit(private, callbacks.UpdateScreening(rule, (X[20:], Y[20:])), epochs=2)
    expected = rdp_epsilon(1e-3, (2.0, 0.2, 10), (1.5, 0.3, 10))
    assert private.ledger.epsilon(1e-3) == pytest.approx(expected, rel=1e-4)
    descriptions = {release.description for release in private.ledger.releases}
    assert descriptions == {"DP-SGD training", "screening score"}
    assert "noisy_loss_change" in history


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_a_budget_counts_scores_too(accountant):
    ledger = accounting.PrivacyLedger()
    for sigma, q in ((2.0, 0.2), (1.5, 0.3)):
        ledger.charge(accounting.dp_sgd_event(sigma, q), 13)
    target = ledger.epsilon(1e-3, accountant) * (1 + 1e-9)
    private = private_model()
    rule = callbacks.NoisyThreshold(noise_multiplier=1.5, sampling_probability=0.3)
    screening = callbacks.UpdateScreening(rule, (X[20:], Y[20:]))
    budget = callbacks.PrivacyBudget(target, 1e-3, accountant)
    history = fit(private, screening, budget, epochs=9)
    assert rule.state["trials"] == 13
    assert history["epsilon"][-1] == private.ledger.epsilon(1e-3, accountant) <= target


def test_the_papers_accounting_says_that_it_is_none():
    private = private_model()
    screening = callbacks.UpdateScreening(Scripted(False, True), PUBLIC, charge="accepted")
    budget = callbacks.PrivacyBudget(None, 1e-3)
    fit(private, budget, screening, epochs=2)
    assert sum(release.count for release in private.ledger.releases) in (5, 6)
    statement = private.privacy_statement(1e-3)
    assert not statement.is_private
    assert "reproduction, not a DP guarantee" in " ".join(str(statement).split())
    with pytest.raises(RuntimeError, match="no guarantee"):
        private_model().forgive_step()


def test_a_rule_that_looks_at_private_data_must_say_what_that_releases():
    class Silent(Scripted):
        needs_public_data = False

    private = private_model()
    with pytest.raises(ValueError, match="Silent.*score_event"):
        fit(private, callbacks.UpdateScreening(Silent(True), (X[20:], Y[20:])))
    assert private.ledger.releases == ()
    fit(private, callbacks.UpdateScreening(Silent(True), PUBLIC), steps_per_epoch=1)


def test_screening_does_not_outlast_its_fit():
    private = private_model()
    rule = callbacks.NoisyThreshold(noise_multiplier=1.5, sampling_probability=0.3)
    fit(private, callbacks.UpdateScreening(rule, (X[20:], Y[20:])))
    fit(private)
    counts = {r.description: 0 for r in private.ledger.releases}
    for release in private.ledger.releases:
        counts[release.description] += release.count
    assert counts == {"DP-SGD training": 10, "screening score": 5}


# The rules.


class FixedEvaluation:
    """Losses as they are given."""

    def __init__(self, values):
        self.values = tf.constant(values, tf.float32)

    @property
    def num_examples(self):
        return len(self.values)

    def losses(self, indices=None):
        return self.values if indices is None else tf.gather(self.values, indices)


@pytest.mark.parametrize(("change", "kept"), [(0.01, 5), (0.05, 10), (0.2, 3), (-0.1, 7), (0.3, 0)])
def test_annealing_keeps_updates_with_the_published_probability(change, kept):
    rule = callbacks.SimulatedAnnealing(temperature_factor=4.0, max_rejections=10**9)
    rule.state["energy"].assign(1.0)
    rule.state["kept"].assign(kept)
    accept = tf.function(lambda: rule.accept(FixedEvaluation([1.0 + change] * 3), ()))
    count = 1000
    accepted = sum(bool(accept()) for _ in range(count))
    expected = min(1.0, np.exp(-change * 4.0 * kept))
    assert stats.binomtest(accepted, count, expected).pvalue > 1e-4


def test_annealing_is_forced_after_so_many_rejections_and_keeps_its_energy():
    rule = callbacks.SimulatedAnnealing(temperature_factor=1e9, max_rejections=3)
    answers = []
    for loss in [2.0, 3.0, 3.0, 3.0, 3.0, 4.0, 2.9, float("nan")]:
        answers.append(bool(rule.decide(FixedEvaluation([loss]), ())))
    assert answers == [True, False, False, False, True, False, True, False]
    assert rule.logs()["energy"] == pytest.approx(2.9)
    assert rule.state["kept"] == 3 and rule.state["rejections_in_a_row"] == 1


@pytest.mark.parametrize("difference", ["mean", "examples"])
@given(data=st.data())
def test_one_example_moves_the_score_by_no_more_than_the_sensitivity(difference, data):
    losses = st.floats(-1e3, 1e3, width=32) | st.sampled_from([np.inf, np.nan])
    before = data.draw(st.lists(losses, min_size=0, max_size=6))
    after = data.draw(st.lists(losses, min_size=len(before), max_size=len(before)))
    one = data.draw(losses), data.draw(losses)
    clip = data.draw(st.sampled_from([0.001, 1.0, 100.0]))
    rule = callbacks.NoisyThreshold(clip, sampling_probability=0.25, difference=difference)
    without = rule.score(tf.constant(before, tf.float32), tf.constant(after, tf.float32), 40)
    neighbour = rule.score(
        tf.constant([*before, one[0]], tf.float32), tf.constant([*after, one[1]], tf.float32), 40
    )
    assert np.isfinite(without) and np.isfinite(neighbour)
    assert abs(float(without) - float(neighbour)) <= rule.sensitivity(40) * (1 + 1e-5)


@pytest.mark.parametrize("difference", ["mean", "examples"])
def test_the_noise_of_a_score_has_the_law_that_is_charged(difference):
    rule = callbacks.NoisyThreshold(
        clip=0.5, noise_multiplier=1.7, sampling_probability=1.0, difference=difference
    )
    evaluation = FixedEvaluation(np.linspace(0.1, 0.2, 8))
    decide = tf.function(
        lambda: (rule.accept(evaluation, rule.prepare(evaluation)), rule.state["score"].value())
    )
    scores = np.array([float(decide()[1]) for _ in range(2000)])
    stddev = 1.7 * (2.0 if difference == "mean" else 1 / 8)
    assert stats.kstest(scores, stats.norm(0, stddev).cdf).pvalue > 1e-5
    for factor in (2 / 3, 3 / 2):
        assert stats.kstest(scores, stats.norm(0, factor * stddev).cdf).pvalue < 1e-9


def test_a_threshold_keeps_what_is_below_it():
    rule = callbacks.NoisyThreshold(
        clip=0.1, threshold=-0.5, noise_multiplier=1e-6, sampling_probability=1.0
    )
    evaluation = FixedEvaluation([1.0, 2.0])
    indices = tf.constant([0, 1], tf.int64)
    for change, expected in ((-0.2, True), (-0.06, True), (-0.04, False), (0.3, False)):
        assert bool(rule.accept(evaluation, (indices, evaluation.values - change))) == expected


def test_losses_are_those_of_the_examples_asked_for():
    private = private_model()
    private.build((None, 4))
    evaluation = callbacks.evaluation.Evaluation(private, ArrayRows((X, Y, None)), 7)
    logits = private.model(X)
    expected = keras.losses.sparse_categorical_crossentropy(Y, logits, from_logits=True)
    losses = tf.function(evaluation.losses)
    np.testing.assert_allclose(losses(), expected, rtol=1e-5)
    chosen = tf.constant([3, 70, 3], tf.int64)
    np.testing.assert_allclose(losses(chosen), tf.gather(expected, chosen), rtol=1e-5)
    assert losses(tf.zeros([0], tf.int64)).shape == (0,)


# Around `fit`.


def test_the_rule_goes_on_after_a_resume(tmp_path):
    private, rule = private_model(), callbacks.SimulatedAnnealing(max_rejections=2)
    screening = callbacks.UpdateScreening(rule, PUBLIC)
    fit(private, screening, epochs=2)
    private.save_weights(tmp_path / "private.weights.h5")

    resumed, again = private_model(), callbacks.SimulatedAnnealing(max_rejections=2)
    resumed.optimizer.build(resumed.trainable_variables)
    resumed.load_weights(tmp_path / "private.weights.h5")
    restored = callbacks.UpdateScreening(again, PUBLIC)
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            seen.append({name: float(value) for name, value in again.state.items()})

    fit(resumed, restored, Watch(), steps_per_epoch=1)
    assert seen == [{name: float(value) for name, value in rule.state.items()}]
    assert seen[0]["trials"] == 10 and again.state["trials"] == 11

    other = callbacks.SimulatedAnnealing(max_rejections=3)
    fit(resumed, callbacks.UpdateScreening(other, PUBLIC), steps_per_epoch=1)
    assert other.state["trials"] == 1


def test_annealing_in_training_lowers_its_energy(capsys):
    private = private_model(SGD(1.0, 0.5, learning_rate=0.5), metrics=["accuracy"])
    labels = X[:, :3].argmax(axis=1)  # There is something to learn.
    public = sampling.public(X[:20], labels[:20])
    screening = callbacks.UpdateScreening(callbacks.SimulatedAnnealing(), public)
    history = private.fit(
        X[20:], labels[20:], callbacks=[screening], batch_size=12, epochs=6
    ).history
    assert history["energy"][-1] < history["energy"][0]
    shown = capsys.readouterr().out
    for name in ("acceptance_rate", "energy", "rejections_in_a_row", "trials"):
        assert name in shown and len(history[name]) == 6


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"rule": "annealing"}, TypeError, "rule='annealing'"),
        ({"evaluation_data": (X, Y)}, ValueError, r"tfdp.sampling.public\(x, y\)"),
        ({"charge": "rejected"}, ValueError, "charge='rejected'"),
        ({"evaluation_batch_size": 0}, ValueError, "evaluation_batch_size=0"),
        ({"restore_optimizer": "no"}, TypeError, "restore_optimizer='no'"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    good = {"rule": callbacks.SimulatedAnnealing(), "evaluation_data": PUBLIC}
    with pytest.raises(error, match=message):
        callbacks.UpdateScreening(**{**good, **arguments})


def test_a_rule_without_its_counters_is_refused():
    class Forgetful(Scripted):
        def __init__(self):
            super().__init__(True)
            self.state = {}

    with pytest.raises(ValueError, match="Forgetful must call"):
        callbacks.UpdateScreening(Forgetful(), PUBLIC)


def test_what_cannot_be_screened_is_refused_before_any_step():
    screening = callbacks.UpdateScreening(callbacks.SimulatedAnnealing(), PUBLIC)
    private = private_model(steps_per_execution=2)
    with pytest.raises(ValueError, match="steps_per_execution=2"):
        fit(private, screening)
    assert private.ledger.releases == ()
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    plain.compile("sgd", loss=LOSS)
    with pytest.raises(ValueError, match="make_private"):
        plain.fit(X, Y, callbacks=[screening], verbose=0)
    reproduced = callbacks.UpdateScreening(
        callbacks.SimulatedAnnealing(), (X, Y), charge="accepted"
    )
    fit(private_model(), reproduced, steps_per_epoch=1)


@pytest.mark.parametrize(
    ("rule", "name", "values"),
    [
        (callbacks.SimulatedAnnealing, "temperature_factor", (0, -1, np.nan, "x")),
        (callbacks.SimulatedAnnealing, "max_rejections", (-1, 1.5, None)),
        (callbacks.NoisyThreshold, "clip", (0, -1, np.inf)),
        (callbacks.NoisyThreshold, "threshold", (np.nan, "x", None)),
        (callbacks.NoisyThreshold, "noise_multiplier", (0, -1, np.nan)),
        (callbacks.NoisyThreshold, "sampling_probability", (0, 1.5, np.nan)),
        (callbacks.NoisyThreshold, "difference", ("sum", 1)),
    ],
)
def test_bad_parameters_of_rules_are_named(rule, name, values):
    for value in values:
        with pytest.raises((TypeError, ValueError), match=f"{name}="):
            rule(**{name: value})
