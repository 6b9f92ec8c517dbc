"""The budget callback: it stops in time, refuses to start, and shows epsilon."""

import keras
import numpy as np
import pytest

import tfdp


def private_model(steps_per_execution=1):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    private = tfdp.make_private(model)
    private.compile(
        tfdp.optimizers.VectorizedDPKerasSGDOptimizer(1.0, 1.0),
        loss="mse",
        steps_per_execution=steps_per_execution,
    )
    return private


X, Y = np.zeros((100, 4), "float32"), np.zeros((100, 2), "float32")
DELTA = 1e-3


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_stops_before_the_step_that_would_overspend(steps_per_execution, accountant):
    target = tfdp.accounting.epsilon(1.0, 0.1, 17, DELTA, accountant) + 1e-6
    private = private_model(steps_per_execution)
    budget = tfdp.callbacks.PrivacyBudget(target, DELTA, accountant)
    history = private.fit(X, Y, batch_size=10, epochs=5, callbacks=[budget], verbose=0)
    (release,) = private.ledger.releases
    assert release.count == 17 - 17 % steps_per_execution
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
