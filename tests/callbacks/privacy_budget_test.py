"""The budget callback: it stops in time, refuses to start, and shows epsilon."""

import keras
import numpy as np
import pytest

import tfdp


def private_model(steps_per_execution=1, noise_multiplier=1.0):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    private = tfdp.make_private(model)
    private.compile(
        tfdp.optimizers.VectorizedDPKerasSGDOptimizer(1.0, noise_multiplier),
        loss="mse",
        steps_per_execution=steps_per_execution,
    )
    return private


X, Y = np.zeros((100, 4), "float32"), np.zeros((100, 2), "float32")
DELTA = 1e-3


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
@pytest.mark.parametrize(("steps_per_execution", "expected"), [(1, 17), (4, 4 + 4 + 2 + 4)])
def test_stops_before_the_step_that_would_overspend(steps_per_execution, expected, accountant):
    target = tfdp.accounting.epsilon(1.0, 0.1, 17, DELTA, accountant) + 1e-6
    private = private_model(steps_per_execution)
    budget = tfdp.callbacks.PrivacyBudget(target, DELTA, accountant)
    history = private.fit(X, Y, batch_size=10, epochs=5, callbacks=[budget], verbose=0)
    (release,) = private.ledger.releases
    assert release.count == expected  # Epochs of 10 steps; an execution is not begun in part.
    assert private.ledger.epsilon(DELTA, accountant) <= target
    assert history.history["epsilon"][-1] == private.ledger.epsilon(DELTA, accountant)


def test_a_second_fit_over_a_spent_budget_does_not_start():
    private = private_model()
    budget = tfdp.callbacks.PrivacyBudget(3.0, DELTA)
    private.fit(X, Y, batch_size=10, epochs=100, callbacks=[budget], verbose=0)
    spent, weights = private.ledger.copy(), private.get_weights()
    with pytest.raises(tfdp.callbacks.BudgetSpentError, match="target_epsilon=3.0"):
        private.fit(X, Y, batch_size=10, callbacks=[budget], verbose=0)
    assert private.ledger == spent
    for old, new in zip(weights, private.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def budget_of(steps, accountant="rdp"):
    target = tfdp.accounting.epsilon(1.0, 0.1, steps, DELTA, accountant)
    return tfdp.callbacks.PrivacyBudget(target + 1e-6, DELTA, accountant)


def steps_in(private):
    return sum(release.count for release in private.ledger.releases)


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_total_steps_are_those_that_run(accountant):
    budget = budget_of(23, accountant)
    private = private_model()
    private.fit(X, Y, batch_size=10, epochs=9, callbacks=[budget], verbose=0)
    assert budget.total_steps(1.0, sampling_probability=0.1) == steps_in(private) == 23
    with pytest.raises(ValueError, match="target_epsilon=None"):
        tfdp.callbacks.PrivacyBudget(None, DELTA).total_steps(1.0, 0.1)


def test_a_second_fit_spends_what_the_first_left():
    private, budget = private_model(), budget_of(15)
    for steps in (10, 15):
        private.fit(X, Y, batch_size=10, callbacks=[budget], verbose=0)
        assert steps_in(private) == steps
    # Compiled anew with more noise: what is spent stays, and less costs less.
    private.compile(
        tfdp.optimizers.VectorizedDPKerasSGDOptimizer(1.0, 20.0), loss="mse", steps_per_execution=5
    )
    with pytest.raises(tfdp.callbacks.BudgetSpentError, match="no further training execution of 5"):
        private.fit(X, Y, batch_size=10, callbacks=[budget], verbose=0)
    assert steps_in(private) == 15


def test_a_short_execution_at_the_end_of_an_epoch_counts_as_what_it_is():
    private = private_model(steps_per_execution=8)
    private.fit(X, Y, batch_size=10, epochs=9, callbacks=[budget_of(33)], verbose=0)
    assert steps_in(private) == 8 + 2 + 8 + 2 + 8  # 5 are left, and 8 might run


def test_an_epoch_has_the_steps_asked_for_at_any_steps_per_execution():
    private = private_model(steps_per_execution=8)
    private.fit(X, Y, batch_size=10, epochs=2, verbose=0)
    assert steps_in(private) == 20


@pytest.mark.parametrize("hook", ["on_train_begin", "on_epoch_begin"])
@pytest.mark.parametrize("left", [0, 1])
def test_what_a_later_callback_restores_is_counted_before_any_step(hook, left, tmp_path):
    earlier = private_model()
    earlier.fit(X, Y, batch_size=10, verbose=0)
    earlier.save_weights(tmp_path / "earlier.weights.h5")

    private = private_model()
    private.optimizer.build(private.trainable_variables)
    restore = keras.callbacks.Callback()
    setattr(restore, hook, lambda *_, **__: private.load_weights(tmp_path / "earlier.weights.h5"))
    callbacks = [budget_of(10 + left), restore]
    if left == 0:
        with pytest.raises(tfdp.callbacks.BudgetSpentError):
            private.fit(X, Y, batch_size=10, callbacks=callbacks, verbose=0)
    else:
        private.fit(X, Y, batch_size=10, callbacks=callbacks, verbose=0)
    assert steps_in(private) == 10 + left


@pytest.mark.parametrize("budget_first", [True, False])
@pytest.mark.parametrize("hook", ["on_train_batch_end", "on_epoch_end"])
def test_what_other_callbacks_charge_is_counted(hook, budget_first):
    private, budget = private_model(), budget_of(25)
    score = tfdp.accounting.dp_sgd_event(1.0, 0.2)
    fitted = []

    def charge(*_, **__):
        fitted.append(private.ledger.epsilon(DELTA) <= budget.target_epsilon)
        private.ledger.charge(score, description="a score")

    other = keras.callbacks.Callback()
    setattr(other, hook, charge)
    callbacks = [budget, other] if budget_first else [other, budget]
    try:
        private.fit(X, Y, batch_size=10, epochs=9, callbacks=callbacks, verbose=0)
    except tfdp.callbacks.BudgetSpentError:
        assert budget_first  # It had looked before the charge: the next look is a refusal.
    # No step was one too many; the last charge of the other callback may have been.
    assert all(fitted)
    assert steps_in(private) < 25


def test_epsilon_is_in_the_progress_bar_and_history(capsys):
    private = private_model()
    budget = tfdp.callbacks.PrivacyBudget(None, DELTA)
    history = private.fit(X, Y, batch_size=10, epochs=2, callbacks=[budget], verbose=1)
    shown = capsys.readouterr().out
    assert "epsilon: " in shown
    first, second = history.history["epsilon"]
    assert 0 < first < second
    assert f"epsilon: {second:.4f}" in shown.replace("\x1b[1m", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 1e-5), "target_epsilon=0"),
        ((float("nan"), 1e-5), "target_epsilon=nan"),
        ((1.0, 0.0), "delta=0"),
        ((1.0, 1.5), "delta=1.5"),
        ((1.0, 1e-5, "gdp"), "accountant='gdp'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        tfdp.callbacks.PrivacyBudget(*arguments)


def test_a_plain_model_has_no_budget():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile("sgd", loss="mse")
    with pytest.raises(ValueError, match="make_private"):
        model.fit(X, Y, callbacks=[tfdp.callbacks.PrivacyBudget(1.0, DELTA)], verbose=0)
