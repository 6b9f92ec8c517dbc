"""The privacy log: what it adds to logs, and its files over fits, resumes and crashes."""

import csv

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdp

X, Y = np.zeros((100, 4), "float32"), np.zeros((100, 2), "float32")
DELTA = 1e-3
KEYS = ["epsilon", "noise_multiplier", "sampling_probability", "expected_batch_size", "steps"]


def private_model(noise_multiplier=2.0, **options):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    private = tfdp.make_private(model)
    optimizer = tfdp.optimizers.VectorizedDPKerasSGDOptimizer(1.0, noise_multiplier, **options)
    private.compile(optimizer, loss="mse", metrics=["mae"])
    return private


def fit(private, *callbacks, batch_size=10, **options):
    return private.fit(
        X, Y, batch_size=batch_size, callbacks=list(callbacks), verbose=0, **options
    ).history


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_each_epoch_of_the_history_says_what_was_spent(accountant):
    history = fit(
        private_model(), tfdp.callbacks.PrivacyLog(DELTA, accountant=accountant), epochs=3
    )
    assert history["steps"] == [10, 20, 30]
    assert history["noise_multiplier"] == [2.0] * 3
    assert history["sampling_probability"] == [0.1] * 3
    assert history["expected_batch_size"] == [10] * 3
    assert history["epsilon"] == [
        tfdp.accounting.epsilon(2.0, 0.1, steps, DELTA, accountant) for steps in (10, 20, 30)
    ]


@pytest.mark.parametrize(
    ("noise_multiplier", "batch_size", "options", "expected"),
    [
        (2.0, 100, {}, (2.0, 1.0)),
        (0.0, 10, {}, (0.0, 0.1)),
        (2.0, 10, {"num_microbatches": 5}, (2.0, 0.1)),
    ],
)
def test_parameters_are_those_of_the_step(noise_multiplier, batch_size, options, expected):
    private = private_model(noise_multiplier, **options)
    history = fit(private, tfdp.callbacks.PrivacyLog(DELTA), batch_size=batch_size)
    assert (history["noise_multiplier"], history["sampling_probability"]) == tuple(
        [value] for value in expected
    )
    assert history["epsilon"] == [private.ledger.epsilon(DELTA)]


def test_later_loggers_and_the_progress_have_the_numbers(tmp_path, capsys):
    private, log = private_model(), tfdp.callbacks.PrivacyLog(DELTA)
    later = keras.callbacks.CSVLogger(tmp_path / "all.csv")
    private.fit(X, Y, batch_size=10, callbacks=[log, later], verbose=2)
    (row,) = rows(tmp_path / "all.csv")
    assert set(KEYS) <= row.keys()
    assert "noise_multiplier: 2.0000" in capsys.readouterr().out


def test_the_files_hold_nothing_of_the_training_data(tmp_path):
    path, folder = tmp_path / "log.csv", tmp_path / "logs"
    log = tfdp.callbacks.PrivacyLog(DELTA, csv_path=path, log_dir=folder)
    history = fit(private_model(), log, epochs=2)
    assert list(rows(path)[0]) == ["epoch", *KEYS, "delta"]
    assert [float(row["epsilon"]) for row in rows(path)] == history["epsilon"]
    scalars = {}
    for file in folder.iterdir():
        for raw in tf.data.TFRecordDataset([str(file)]).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(raw)
            for value in event.summary.value:
                number = float(tf.make_ndarray(value.tensor))
                scalars.setdefault(value.tag, []).append((event.step, number))
    assert set(scalars) == {f"privacy/{key}" for key in KEYS}
    assert scalars["privacy/steps"] == [(0, 10.0), (1, 20.0)]
    assert scalars["privacy/epsilon"][-1][1] == pytest.approx(history["epsilon"][-1])


def test_a_second_fit_appends(tmp_path):
    private, path = private_model(), tmp_path / "log.csv"
    log = tfdp.callbacks.PrivacyLog(DELTA, csv_path=path)
    fit(private, log, epochs=2)
    fit(private, log, batch_size=20)
    fit(private, tfdp.callbacks.PrivacyLog(DELTA, csv_path=path), initial_epoch=3, epochs=4)
    table = [(row["epoch"], row["steps"], row["expected_batch_size"]) for row in rows(path)]
    assert table == [("0", "10", "10"), ("1", "20", "10"), ("0", "25", "20"), ("3", "35", "10")]


@pytest.mark.parametrize("hook", ["on_train_begin", "on_epoch_begin"])
def test_going_on_after_a_crash_repeats_no_row(hook, tmp_path):
    path = tmp_path / "log.csv"
    crashed = private_model()
    log = tfdp.callbacks.PrivacyLog(DELTA, csv_path=path)
    fit(crashed, log, epochs=2)
    crashed.save_weights(tmp_path / "kept.weights.h5")
    fit(crashed, log, initial_epoch=2, epochs=4)  # Two epochs that no checkpoint holds,
    with open(path, "a") as file:
        file.write("4,0.12")  # and half a row.

    private = private_model()
    private.optimizer.build(private.trainable_variables)
    restore = keras.callbacks.Callback()
    setattr(restore, hook, lambda *_, **__: private.load_weights(tmp_path / "kept.weights.h5"))
    # A callback listed later has restored the ledger in time only in `on_train_begin`.
    log = tfdp.callbacks.PrivacyLog(DELTA, csv_path=path)
    callbacks = [log, restore] if hook == "on_train_begin" else [restore, log]
    fit(private, *callbacks, initial_epoch=2, epochs=3)
    table = [(row["epoch"], row["steps"]) for row in rows(path)]
    assert table == [("0", "10"), ("1", "20"), ("2", "30")]
    assert not (tmp_path / "log.csv.partial").exists()


def test_a_new_model_starts_a_new_file(tmp_path):
    path = tmp_path / "log.csv"
    for _ in range(2):
        fit(private_model(), tfdp.callbacks.PrivacyLog(DELTA, csv_path=path))
    assert [row["steps"] for row in rows(path)] == ["10"]


@pytest.mark.parametrize("content", ["epoch,loss\n0,1.0\n", "precious\n"])
def test_another_file_is_not_overwritten(content, tmp_path):
    path = tmp_path / "file.csv"
    path.write_text(content)
    private = private_model()
    with pytest.raises(ValueError, match="Received: csv_path="):
        fit(private, tfdp.callbacks.PrivacyLog(DELTA, csv_path=path))
    assert path.read_text() == content
    assert private.ledger.releases == ()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [((0.0,), {}, "delta=0"), ((1e-5,), {"accountant": "gdp"}, "accountant='gdp'")],
)
def test_bad_arguments_are_named(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        tfdp.callbacks.PrivacyLog(*arguments, **options)


def test_a_plain_model_has_no_log():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile("sgd", loss="mse")
    with pytest.raises(ValueError, match="PrivacyLog needs a model from tfdp.make_private"):
        fit(model, tfdp.callbacks.PrivacyLog(DELTA))
