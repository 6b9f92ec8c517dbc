"""The ledger goes wherever Keras carries the weights: backups, checkpoints, saved models."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdp

X, Y = np.zeros((100, 4), "float32"), np.zeros((100, 2), "float32")
STEPS = 10  # an epoch
DELTA = 1e-3


class Crash(Exception):
    """In place of one."""


def private_model(noise_multiplier=1.0, steps_per_execution=1):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    private = tfdp.make_private(model)
    compile_with(private, noise_multiplier, steps_per_execution=steps_per_execution)
    return private


def compile_with(private, noise_multiplier, **options):
    private.compile(
        tfdp.optimizers.VectorizedDPKerasAdamOptimizer(1.0, noise_multiplier), loss="mse", **options
    )
    private.optimizer.build(private.trainable_variables)  # so that files have its state, too


def fit(private, *callbacks, **options):
    private.fit(X, Y, batch_size=10, callbacks=list(callbacks), verbose=0, **options)


def fit_until(private, hook, call, *callbacks, **options):
    """Trains until the given call of a callback's method, and crashes there."""
    calls = iter(range(1, 1_000))

    def crash(*_, **__):
        if next(calls) == call:
            raise Crash

    crashing = keras.callbacks.Callback()
    setattr(crashing, hook, crash)
    with pytest.raises(Crash):
        fit(private, *callbacks, crashing, **options)


def charged(private):
    return [release.count for release in private.ledger.releases]


def steps_in_weights(private):
    """Steps that the optimizer has applied to the very weights of the model."""
    return int(private.optimizer.iterations)


def test_a_backup_each_epoch_restores_the_ledger_of_its_weights(tmp_path):
    crashed = private_model()
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    fit_until(crashed, "on_train_batch_end", 2 * STEPS + 3, backup, epochs=4)
    assert charged(crashed) == [2 * STEPS + 3]

    private, seen = private_model(), []
    start = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, _: seen.append((epoch, charged(private)))
    )
    fit(private, keras.callbacks.BackupAndRestore(tmp_path / "backup"), start, epochs=4)
    # The three steps of the crashed epoch went with the process: nothing of them was released.
    assert seen[0] == (2, [2 * STEPS])
    assert charged(private) == [4 * STEPS]
    assert steps_in_weights(private) == 4 * STEPS


@pytest.mark.parametrize("steps_per_execution", [1, 5])
def test_a_backup_within_an_epoch_restores_the_ledger_of_its_weights(steps_per_execution, tmp_path):
    crashed = private_model(steps_per_execution=steps_per_execution)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=5)
    crash_at = {1: STEPS + 8, 5: 4}[steps_per_execution]
    fit_until(crashed, "on_train_batch_end", crash_at, backup, epochs=3)

    private, seen = private_model(), []
    start = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, _: seen.append((epoch, *charged(private)))
    )
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", save_freq=5)
    fit(private, backup, start, epochs=3)
    epoch, restored = seen[0]
    assert epoch == 1  # Keras begins the epoch anew, on top of the steps that it had made.
    assert restored == {1: STEPS + 5, 5: 2 * STEPS}[steps_per_execution]
    assert charged(private) == [restored + 2 * STEPS]
    assert steps_in_weights(private) == restored + 2 * STEPS


def test_a_backup_restored_where_the_steps_are_still_known_forgets_none(tmp_path):
    private = private_model()
    for _ in range(2):  # The second time the lost steps are charged, and made again.
        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        fit_until(private, "on_train_batch_end", STEPS + 3, backup, epochs=4)
    assert sum(charged(private)) == (STEPS + 3) + (STEPS + 3)
    assert steps_in_weights(private) == STEPS + (STEPS + 3)


@pytest.mark.parametrize("budget_first", [True, False])
def test_a_budget_counts_what_a_backup_restores(budget_first, tmp_path):
    target = tfdp.accounting.epsilon(1.0, 0.1, 3 * STEPS - 2, DELTA) + 1e-6

    def callbacks():
        budget = tfdp.callbacks.PrivacyBudget(target, DELTA)
        backup = keras.callbacks.BackupAndRestore(tmp_path / "b", delete_checkpoint=False)
        return [budget, backup] if budget_first else [backup, budget]

    fit_until(private_model(), "on_train_batch_end", 2 * STEPS + 3, *callbacks(), epochs=9)
    private = private_model()
    fit(private, *callbacks(), epochs=9)
    assert charged(private) == [3 * STEPS - 2]
    refused = private_model()
    with pytest.raises(tfdp.callbacks.BudgetSpentError):
        fit(refused, *callbacks(), epochs=9)
    assert charged(refused) == [3 * STEPS - 2]


def test_each_weights_checkpoint_has_its_own_ledger(tmp_path):
    path = str(tmp_path / "{epoch}.weights.h5")
    trained = private_model()
    fit(trained, keras.callbacks.ModelCheckpoint(path, save_weights_only=True), epochs=3)
    for epoch in (1, 2, 3):
        private = private_model()
        private.load_weights(path.format(epoch=epoch))
        assert charged(private) == [epoch * STEPS]
    # Where later steps are known, an earlier file takes nothing back.
    trained.load_weights(path.format(epoch=1))
    assert charged(trained) == [3 * STEPS]


@pytest.mark.parametrize("save_freq", ["epoch", 4])
def test_a_whole_model_checkpoint_goes_on(save_freq, tmp_path):
    path = tmp_path / "model.keras"
    checkpoint = keras.callbacks.ModelCheckpoint(path, save_freq=save_freq)
    fit_until(private_model(), "on_train_batch_end", 2 * STEPS + 3, checkpoint, epochs=3)
    private = keras.saving.load_model(path)
    saved = 2 * STEPS
    assert charged(private) == [saved]
    assert steps_in_weights(private) == saved
    target = tfdp.accounting.epsilon(1.0, 0.1, saved + 5, DELTA) + 1e-6
    fit(private, tfdp.callbacks.PrivacyBudget(target, DELTA))
    assert charged(private) == [saved + 5]
    assert steps_in_weights(private) == saved + 5


def test_a_restored_model_with_other_parameters_goes_on_with_its_ledger(tmp_path):
    earlier = private_model()
    fit(earlier, epochs=2)
    earlier.save_weights(tmp_path / "earlier.weights.h5")

    private = private_model(noise_multiplier=4.0)
    private.load_weights(tmp_path / "earlier.weights.h5")
    fit(private)
    compile_with(private, 2.0)
    fit(private)
    assert charged(private) == [2 * STEPS, STEPS, STEPS]
    steps = [tfdp.accounting.dp_sgd_event(sigma, 0.1) for sigma in (1.0, 4.0, 2.0)]
    assert [release.event for release in private.ledger.releases] == steps
    by_hand = tfdp.accounting.PrivacyLedger()
    for step, count in zip(steps, charged(private), strict=True):
        by_hand.charge(step, count)
    assert private.ledger.epsilon(DELTA) == by_hand.epsilon(DELTA)

    left = by_hand.remaining_steps(steps[-1], by_hand.epsilon_after(steps[-1], 3, DELTA), DELTA)
    budget = tfdp.callbacks.PrivacyBudget(by_hand.epsilon_after(steps[-1], 3, DELTA), DELTA)
    fit(private, budget)
    assert charged(private) == [2 * STEPS, STEPS, STEPS + left]


def test_two_runs_from_one_checkpoint_draw_noise_of_their_own_and_are_both_charged(tmp_path):
    start = private_model()
    fit(start)
    start.save_weights(tmp_path / "start.weights.h5")
    runs = [private_model(), private_model()]
    for number, private in enumerate(runs):
        private.load_weights(tmp_path / "start.weights.h5")
        fit(private)
        assert charged(private) == [2 * STEPS]
        private.save_weights(tmp_path / f"{number}.weights.h5")
    for one, other in zip(*(private.get_weights() for private in runs), strict=True):
        assert not np.any(one == other)
    runs[0].load_weights(tmp_path / "1.weights.h5")
    assert sum(charged(runs[0])) == 3 * STEPS  # what they share, and what each has added


def adapted_model(seed):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [keras.Input((3,), dtype="int32"), keras.layers.Embedding(5, 4, name="words")]
        + [keras.layers.Flatten(), keras.layers.Dense(6, "tanh", name="hidden")]
        + [keras.layers.Dense(2, name="outputs")]
    )
    tfdp.lora.enable(model, ["words", "hidden", "outputs"], rank=2)
    private = tfdp.make_private(model)
    compile_with(private, 0.0)
    return private


@pytest.mark.parametrize("whole_model", [False, True])
def test_training_of_adapters_goes_on_from_a_file_as_if_nothing_had_happened(whole_model, tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, (20, 3)), rng.normal(size=(20, 2)).astype("float32")

    def train(private):
        private.fit(x, y, batch_size=20, steps_per_epoch=5, verbose=0)

    private = adapted_model(seed=1)
    train(private)
    path = tmp_path / ("model.keras" if whole_model else "model.weights.h5")
    if whole_model:
        private.save(path)
        restored = keras.models.load_model(path)
        again = tmp_path / "again.keras"
        restored.save(again)  # What was loaded, not what Keras has made of it.
        restored = keras.models.load_model(again)
    else:
        private.save_weights(path)
        restored = adapted_model(seed=2)
        restored.load_weights(path)
    np.testing.assert_allclose(restored.predict(x), private.predict(x), rtol=1e-5, atol=1e-6)
    for model in (private, restored):
        train(model)
    assert len(private.trainable_variables) == len(restored.trainable_variables) == 6
    for one, other in zip(private.weights, restored.weights, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)
    assert charged(restored) == charged(private)


def test_a_loop_of_ones_own_goes_on_with_the_adapters_of_a_whole_model(tmp_path):
    private = adapted_model(seed=1)
    private.expected_batch_size = 20
    x, y = np.arange(60).reshape(20, 3) % 5, np.ones((20, 2), "float32")
    private.train_on_batch(x, y)
    private.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras")
    for model in (private, restored):
        step = tf.function(model.train_step, autograph=False)
        for _ in range(3):
            step((tf.constant(x), tf.constant(y)))
    for one, other in zip(private.weights, restored.weights, strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


def test_adapters_of_another_model_are_not_taken_for_its_own(tmp_path):
    private = adapted_model(seed=1)
    private.save_weights(tmp_path / "model.weights.h5")
    other = adapted_model(seed=1)
    other.model.get_layer("hidden").lora_alpha = 5
    with pytest.raises(ValueError, match="have the alpha 5.0; the file has 2.0"):
        other.load_weights(tmp_path / "model.weights.h5")
    other._loaded_adapters = {"adapter_0:a": np.zeros((2, 2))}
    with pytest.raises(ValueError, match="adapters are on other layers"):
        other.fit(np.zeros((20, 3), "int32"), np.zeros((20, 2)), batch_size=20, verbose=0)
