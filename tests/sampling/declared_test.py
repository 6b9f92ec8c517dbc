"""Data sets whose sampling the caller declares: what is charged, what is said, what is refused."""

import importlib
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdp
from tfdp import accounting, make_private, optimizers, sampling

SGD = optimizers.VectorizedDPKerasSGDOptimizer
N, B = 60, 10
X, Y = np.ones((N, 4), "float32"), np.ones((N, 2), "float32")


def dataset(batch_size=B, drop_remainder=False):
    whole = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(N)
    return whole.batch(batch_size, drop_remainder=drop_remainder)


def declared(kind, data=None, batch_size=B):
    return sampling.declare(
        dataset(batch_size) if data is None else data,
        num_examples=N,
        batch_size=batch_size,
        sampling=kind,
    )


def private_model(noise_multiplier=2.0, **options):
    private = make_private(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))
    private.compile(SGD(1.0, noise_multiplier), loss="mse", **options)
    return private


def charged(private):
    return [(release.event, release.count) for release in private.ledger.releases]


@pytest.mark.parametrize(
    ("kind", "event", "count"),
    [
        ("poisson", accounting.dp_sgd_event(2.0, B / N), 12),
        ("without_replacement", accounting.fixed_size_dp_sgd_event(2.0, B, N), 12),
        ("shuffled", accounting.dp_sgd_event(2.0, 1.0), 2),
    ],
)
def test_each_sampling_has_its_own_accounting(kind, event, count):
    private = private_model()
    history = private.fit(declared(kind), epochs=2, verbose=0)
    assert len(history.history["loss"]) == 2
    assert charged(private) == [(event, count)]
    text = " ".join(str(private.privacy_statement(1e-3)).split())
    assert "declared by the caller, not checked" in text
    assert ("an estimate" in text) == (kind != "poisson")
    assert ("number of examples is public" in text) == (kind != "poisson")


def test_full_batches_are_charged_in_full():
    private = private_model()
    private.fit(declared("full_batch", dataset(N), N), epochs=3, verbose=0)
    assert charged(private) == [(accounting.dp_sgd_event(2.0, 1.0), 3)]


def test_a_pass_over_shuffled_data_is_charged_when_it_begins():
    private = private_model()
    pass_event = accounting.dp_sgd_event(2.0, 1.0)
    data = declared("shuffled")
    private.fit(data, epochs=1, steps_per_epoch=6, verbose=0)
    assert charged(private) == [(pass_event, 1)]
    private.fit(data, epochs=2, steps_per_epoch=4, verbose=0)  # 8 steps: two passes begun.
    assert charged(private) == [(pass_event, 3)]
    private.fit(data, epochs=1, steps_per_epoch=1, verbose=0)  # Another fit, another pass.
    assert charged(private) == [(pass_event, 4)]


def test_what_is_left_of_a_begun_pass_costs_nothing():
    private = private_model()
    pass_event = accounting.dp_sgd_event(2.0, 1.0)
    target = accounting.epsilon(2.0, 1.0, 3, 1e-3) + 1e-9
    remaining = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            remaining.append(private.remaining_steps(target, 1e-3))

    budget = tfdp.callbacks.PrivacyBudget(target, 1e-3)
    private.fit(declared("shuffled"), epochs=9, callbacks=[budget, Watch()], verbose=0)
    assert remaining == list(reversed(range(18)))
    assert charged(private) == [(pass_event, 3)]
    with pytest.raises(tfdp.callbacks.BudgetSpentError):
        private.fit(declared("shuffled"), callbacks=[budget], verbose=0)


@pytest.mark.parametrize("drop_remainder", [False, True])
def test_passes_of_a_length_that_the_batch_size_does_not_divide(drop_remainder):
    data = declared("shuffled", dataset(25, drop_remainder), 25)
    assert len(data) == (2 if drop_remainder else 3)
    # Endless data may have an example twice in one batch, at the end and the beginning of passes.
    with pytest.raises(ValueError, match=r"without repeat\(\)"):
        declared("shuffled", dataset(25).unbatch().repeat().batch(25), 25)


def test_steps_that_would_run_beyond_a_pass_are_refused():
    private = private_model(steps_per_execution=4)
    with pytest.raises(ValueError, match="steps_per_execution=4"):
        private.fit(declared("shuffled"), verbose=0)
    with pytest.raises(ValueError, match="steps_per_epoch=7"):
        private_model().fit(declared("shuffled"), steps_per_epoch=7, verbose=0)


def test_a_batch_longer_than_declared_ends_training_before_it_is_used():
    private = private_model()
    before = private.get_weights()
    with pytest.raises(tf.errors.InvalidArgumentError, match="declared batch_size=5"):
        private.fit(
            sampling.declare(
                dataset(10), num_examples=30, batch_size=5, sampling="without_replacement"
            ),
            verbose=0,
        )
    for old, new in zip(before, private.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert sum(count for _, count in charged(private)) <= 1  # Charged before it is run.


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"dataset": [1, 2]}, TypeError, "dataset of type list"),
        ({"num_examples": 0}, ValueError, "num_examples=0"),
        ({"num_examples": 5}, ValueError, "batch_size=10"),
        ({"batch_size": -1}, ValueError, "batch_size=-1"),
        ({"sampling": "random"}, ValueError, "sampling='random'"),
        ({"sampling": "full_batch"}, ValueError, "batch_size=10"),
        ({"num_examples": 100}, ValueError, "a dataset of 6 batches"),
        ({"dataset": dataset().filter(lambda x, y: True)}, ValueError, "assert_cardinality"),
    ],
)
def test_bad_declarations_are_refused_with_the_reason(arguments, error, message):
    good = {"dataset": dataset(), "num_examples": N, "batch_size": B, "sampling": "shuffled"}
    with pytest.raises(error, match=message):
        sampling.declare(**{**good, **arguments})


def test_streams_without_a_declaration_are_refused_with_the_line_that_mends_it():
    def batches():
        yield X, Y

    for stream in (dataset(), batches()):
        with pytest.raises(ValueError, match=r"fit\(tfdp.sampling.declare\(dataset, num_examples"):
            private_model().fit(stream, verbose=0)
    with pytest.raises(ValueError, match="batch_size"):
        private_model().fit(declared("shuffled"), batch_size=3, verbose=0)


def test_poisson_sampling_is_said_once(caplog, monkeypatch):
    module = importlib.import_module("tfdp.sampling.training_data")  # A function hides its name.
    monkeypatch.setattr(module, "_said", False)
    with caplog.at_level(logging.WARNING, logger="tfdp"):
        for _ in range(2):
            private_model().fit(X, Y, batch_size=15, verbose=0)
    (record,) = [r for r in caplog.records if r.name == "tfdp"]
    assert "probability 0.25" in record.getMessage() and "15 examples" in record.getMessage()


@pytest.mark.parametrize("kind", ["poisson", "shuffled", "full_batch"])
def test_groups_of_examples_double_the_sensitivity_in_every_sampling(kind):
    size = N if kind == "full_batch" else B
    private = make_private(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))
    private.compile(SGD(1.0, 2.0, num_microbatches=size // 2), loss="mse")
    private.fit(declared(kind, dataset(size), size), verbose=0)
    ((event, _),) = charged(private)
    q = 1.0 if kind != "poisson" else B / N
    assert event == accounting.dp_sgd_event(2.0, q, microbatch_size=2)
    private.compile(SGD(1.0, 2.0, num_microbatches=5), loss="mse")
    with pytest.raises(ValueError, match="num_microbatches=5"):
        private.fit(declared("without_replacement"), verbose=0)


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_scores_of_a_begun_pass_are_charged_with_it_so_that_the_budget_holds(accountant):
    def screened(rule):
        return tfdp.callbacks.UpdateScreening(rule, (X, Y))

    rules = [
        tfdp.callbacks.NoisyThreshold(noise_multiplier=1.0, sampling_probability=0.5)
        for _ in range(3)
    ]
    counts = []

    class AfterTheFirstStep(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.model.stop_training = True
            counts.extend(release.count for release in self.model.ledger.releases)
            remaining = self.model.remaining_steps(100.0, 1e-3, accountant)
            counts.append(remaining - len(declared("shuffled")) + 1)

    private = private_model()
    private.fit(
        declared("shuffled"), callbacks=[screened(rules[0]), AfterTheFirstStep()], verbose=0
    )
    per_pass = len(declared("shuffled"))
    assert counts[:2] == [1, per_pass] and counts[2] % per_pass == 0
    ledger = accounting.PrivacyLedger()
    ledger.charge(accounting.dp_sgd_event(2.0, 1.0))
    ledger.charge(accounting.dp_sgd_event(1.0, 0.5), 3)  # Half of the scores of the pass.
    private = private_model()
    budget = tfdp.callbacks.PrivacyBudget(ledger.epsilon(1e-3, accountant), 1e-3, accountant)
    with pytest.raises(tfdp.callbacks.BudgetSpentError):
        private.fit(declared("shuffled"), callbacks=[screened(rules[1]), budget], verbose=0)
    ledger.charge(accounting.dp_sgd_event(1.0, 0.5), 3)
    budget = tfdp.callbacks.PrivacyBudget(ledger.epsilon(1e-3, accountant) + 1e-9, 1e-3, accountant)
    private.fit(declared("shuffled"), epochs=3, callbacks=[screened(rules[2]), budget], verbose=0)
    assert rules[2].state["trials"] == 6
    assert private.ledger.epsilon(1e-3, accountant) <= budget.target_epsilon
