"""Tests of `train.py` as a user runs it."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import flags

import tfdp
from tfdp.scripts import image_datasets, train, train_report, train_settings
from tfdp.scripts.command_line import UsageError
from tfdp.scripts.images import ArrayImages

PROGRAM = pathlib.Path(train.__file__)


def run(*arguments, folder):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    return subprocess.run(
        [sys.executable, str(PROGRAM), *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=300,
    )


def train_with(*arguments):
    values = flags.FlagValues()
    train_settings.declare_flags(values)
    values(["train.py", *arguments])
    return train.train(values)


def test_digits_end_to_end(tmp_path):
    done = run("--epochs=8", "--output_dir=out", "--seed=1", "--verbose=0", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    out = tmp_path / "out"
    record = json.loads((out / "result.json").read_text())

    assert record["dataset"] == "digits"
    assert record["test_accuracy"] > 0.75
    assert record["steps"] == 8 * 6
    assert record["epsilon"]["pld"] <= record["epsilon"]["rdp"] <= 8.0
    assert record["epsilon"]["rdp"] > 7.9
    assert record["history"]["epsilon"][-1] == pytest.approx(record["epsilon"]["rdp"])
    assert len(record["history"]["test_accuracy"]) == record["epochs"] == 8
    by_hand = tfdp.accounting.epsilon(
        record["noise_multiplier"], record["sampling_probability"], record["steps"], 1e-4
    )
    assert record["epsilon"]["rdp"] == pytest.approx(by_hand)
    assert record["command"].endswith("--epochs=8 --output_dir=out --seed=1 --verbose=0")
    assert record["examples_per_second"] > 0

    model = keras.saving.load_model(out / "model.keras")
    assert type(model) is keras.Sequential  # the plain model, nothing of privacy in it
    data = image_datasets.load("digits")
    correct = np.argmax(model.predict(data.test.x, verbose=0), axis=1) == data.test.y
    assert np.mean(correct) == pytest.approx(record["test_accuracy"])

    assert "Privacy statement" in (out / "privacy_statement.txt").read_text()
    json.loads((out / "privacy_statement.json").read_text())
    assert (out / "history.png").read_bytes().startswith(b"\x89PNG")
    assert list((out / "logs").rglob("events.out.tfevents.*"))
    assert f"{record['test_accuracy']:.2%}" in done.stdout
    assert f"{record['epsilon']['rdp']:.3f} (RDP)" in done.stdout
    assert "out/model.keras" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--optimizer=adam", "--momentum=0.9"], "--momentum is for --optimizer=sgd"),
        (["--model=resnet"], "--model"),
    ],
)
def test_a_usage_error_is_one_line_and_status_2(arguments, message, tmp_path):
    done = run(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("train.py: ")
    assert message in last
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_budget_without_room_for_one_step_is_refused(tmp_path):
    arguments = ("--target_epsilon=0.1", "--noise_multiplier=1", f"--output_dir={tmp_path}")
    with pytest.raises(UsageError, match="target_epsilon=0.1, noise_multiplier=1.0$"):
        train_with(*arguments)


def test_help_shows_the_flags(tmp_path):
    done = run("--help", folder=tmp_path)
    assert done.returncode == 0
    assert done.stdout.startswith("Trains an image classifier")
    assert "--target_epsilon" in done.stdout
    assert "--alsologtostderr" not in done.stdout


def test_noise_instead_of_a_budget(tmp_path):
    report = train_with(
        *("--noise_multiplier=2", "--epochs=2", "--verbose=0", f"--output_dir={tmp_path}"),
        *("--optimizer=adam", "--learning_rate=0.01", "--accountant=pld"),
        "--activation=tempered_sigmoid(1.58,3,0.71)",
    )
    assert report.noise_multiplier == 2.0
    assert report.target_epsilon is None
    assert report.momentum is None
    assert report.steps == 12
    assert report.activation == "tempered_sigmoid(1.58,3,0.71)"
    assert report.history["epsilon"][-1] == pytest.approx(report.epsilon["pld"])
    layer = keras.saving.load_model(tmp_path / "model.keras").layers[2]
    assert isinstance(layer, tfdp.layers.TemperedSigmoid)


@pytest.mark.parametrize(
    ("name", "shape", "model"),
    [
        ("mnist", (28, 28, 1), "mnist_cnn"),
        ("cifar10", (32, 32, 3), "cifar_cnn_dense"),
    ],
)
def test_a_preset_trains_its_model(name, shape, model, tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    x, y = random.random((24, *shape), "float32"), random.integers(0, 10, 24)
    train_images, test_images = ArrayImages(x, y), ArrayImages(x[:8], y[:8])
    data = image_datasets.ImageData(name, train_images, test_images, num_classes=10)
    monkeypatch.setattr(image_datasets, "load", lambda *_, **__: data)
    report = train_with(
        *(f"--dataset={name}", "--batch_size=12", "--epochs=1", "--verbose=0"),
        *(f"--output_dir={tmp_path}", "--physical_batch_size=8"),
    )
    assert report.model == model
    assert report.physical_batch_size == 8
    assert report.target_epsilon * 0.98 < report.epsilon["rdp"] <= report.target_epsilon


def test_without_noise_there_is_no_epsilon(tmp_path):
    report = train_with(
        "--noise_multiplier=0", "--epochs=1", "--verbose=0", f"--output_dir={tmp_path}"
    )
    assert report.epsilon == {"rdp": None, "pld": None}
    assert json.loads((tmp_path / "result.json").read_text())["history"]["epsilon"] == [None]
    assert "none (RDP)" in train_report.summary(report, str(tmp_path))


def test_the_records_hold_no_metric_of_the_training_data(tmp_path):
    train_with("--noise_multiplier=2", "--epochs=1", "--verbose=0", f"--output_dir={tmp_path}")
    tags = {
        run.name: {
            value.tag
            for file in run.iterdir()
            for raw in tf.data.TFRecordDataset([str(file)]).as_numpy_iterator()
            for value in tf.compat.v1.Event.FromString(raw).summary.value
        }
        for run in (tmp_path / "logs").iterdir()
    }
    assert "epoch_epsilon" in tags["train"]
    assert not {"epoch_loss", "epoch_accuracy"} & tags["train"]
    assert {"epoch_loss", "epoch_accuracy"} <= tags["validation"]


def test_a_model_that_does_not_fit_the_images_is_refused(tmp_path):
    with pytest.raises(UsageError, match="Received: model=mnist_cnn$"):
        train_with("--model=mnist_cnn", f"--output_dir={tmp_path}")


def test_a_budget_that_no_noise_reaches_is_refused(tmp_path):
    with pytest.raises(UsageError, match="No noise reaches the budget"):
        train_with("--target_epsilon=1e-6", "--delta=1e-300", f"--output_dir={tmp_path}")


def test_the_average_of_the_weights_is_released_also_after_a_resume(tmp_path, monkeypatch):
    arguments = (
        *("--augmentation=shift", "--augmentation_multiplicity=2", "--ema_decay=0.8"),
        *("--epochs=3", "--verbose=0", f"--output_dir={tmp_path}", "--resume"),
    )
    made = []
    original = tfdp.make_private

    def recorded(*positional, **named):
        made.append(original(*positional, **named))
        return made[-1]

    def stop(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(tfdp, "make_private", recorded)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(keras.callbacks.TensorBoard, "on_epoch_begin", stop)
        train_with(*arguments)
    report = train_with(*arguments)
    assert report.epochs == 3 and report.settings["augmentation_multiplicity"] == 2
    private = made[-1]
    released = keras.saving.load_model(tmp_path / "model.keras")
    average = private.optimizer._model_variables_moving_average
    for weight, mean in zip(released.trainable_variables, average, strict=True):
        np.testing.assert_allclose(weight, mean, rtol=1e-5)
    # Views cost compute, not privacy.
    assert report.epsilon["rdp"] == pytest.approx(8.0, rel=1e-3)
