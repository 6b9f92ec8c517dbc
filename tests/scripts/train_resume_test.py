"""`train.py --resume`: what it goes on with, and what it refuses."""

import dataclasses
import json
import pathlib
import shutil

import crashing_training
import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from crashing_training import STEPS_PER_EPOCH, assert_same_weights, on_disk, train_with

import tfdp
from tfdp.scripts import image_datasets, train, train_checkpoint
from tfdp.scripts.command_line import UsageError


class Interrupted(Exception):
    """In place of a crash, where the process is to live on."""


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(image_datasets, "load", crashing_training.tiny_data)


def interrupt(monkeypatch, folder, *arguments, after, epochs=4):
    """Runs the program until so many epochs are complete."""
    write = train_checkpoint.write

    def write_and_raise(private, run, folder):
        write(private, run, folder)
        if len(run.epochs) == after:
            raise Interrupted

    with monkeypatch.context() as patch:
        patch.setattr(train_checkpoint, "write", write_and_raise)
        with pytest.raises(Interrupted):
            train_with(f"--output_dir={folder}", f"--epochs={epochs}", *arguments)


def files_in(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in pathlib.Path(folder).rglob("*")
        if path.is_file()
    }


def test_a_resumed_run_is_recorded_as_one(tmp_path, monkeypatch, capsys):
    flags = ["--target_epsilon=4", "--seed=3", "--optimizer=adam"]
    interrupt(monkeypatch, tmp_path, *flags, after=2)
    run, state = on_disk(tmp_path)
    assert state["ledger"] == state["iterations"] == 2 * STEPS_PER_EPOCH
    report = train_with(
        f"--output_dir={tmp_path}", "--epochs=4", *flags, "--resume", "--physical_batch_size=8"
    )
    assert "Resuming after 2 of 4 epochs." in capsys.readouterr().out

    assert report.epochs == 4
    assert report.steps == 4 * STEPS_PER_EPOCH
    assert report.history["epsilon"][:2] == run.column("epsilon")
    assert report.history["test_accuracy"][:2] == run.column("val_accuracy")
    steps = [STEPS_PER_EPOCH * epochs for epochs in (1, 2, 3, 4)]
    assert report.history["epsilon"] == pytest.approx(
        [tfdp.accounting.epsilon(report.noise_multiplier, 1 / 3, n, 1e-3) for n in steps]
    )
    assert report.epsilon["rdp"] == report.history["epsilon"][-1] <= 4
    assert report.seconds >= sum(run.column("seconds"))
    assert report.settings["seed"] == 3
    released = keras.saving.load_model(tmp_path / "model.keras")
    assert released.count_params() == report.parameters
    assert not list(tmp_path.glob("*checkpoint*")) and not list(tmp_path.glob("partial.*"))


def test_everything_is_restored_but_the_noise(tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    flags = ["--noise_multiplier=1", "--seed=3"]
    interrupt(monkeypatch, first, *flags, after=1, epochs=2)
    shutil.copytree(first, second)
    starts, ends = [], []
    fit = tfdp.PrivateModel.fit

    def watched(private, *args, **options):
        starts.append(crashing_training.snapshot(private))
        momenta = [v.numpy() for v in private.optimizer.variables]
        assert any(np.any(m) for m in momenta[2:])
        fit(private, *args, **options)
        ends.append(crashing_training.snapshot(private))

    monkeypatch.setattr(tfdp.PrivateModel, "fit", watched)
    for folder in (first, second):
        train_with(f"--output_dir={folder}", "--epochs=2", *flags, "--resume")
    one, other = starts
    assert_same_weights(one["weights"], other["weights"])
    assert one["ledger"] == other["ledger"] == one["iterations"] == STEPS_PER_EPOCH
    one, other = ends
    assert one["ledger"] == other["ledger"] == other["iterations"] == 2 * STEPS_PER_EPOCH
    for some, others in zip(one["weights"], other["weights"], strict=True):
        assert not np.any(some == others)


ARGUMENTS = ["--epochs=4", "--target_epsilon=4", "--seed=1"]


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """A folder with a run after the first of four epochs; not to be changed."""
    folder = tmp_path_factory.mktemp("unfinished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_datasets, "load", crashing_training.tiny_data)
        interrupt(patch, folder, *ARGUMENTS, after=1)
    files = files_in(folder)
    yield folder
    assert files_in(folder) == files


@pytest.mark.parametrize(
    ("flag", "before", "received"),
    [
        ("--epochs=5", "--epochs=4", "epochs=5"),
        ("--learning_rate=0.25", "--learning_rate=1.0", "learning_rate=0.25"),
        ("--activation=tempered_sigmoid", "--activation=tanh", r"activation=temp.*\(2,2,1\)"),
        ("--optimizer=adagrad", "--optimizer=sgd", "optimizer=adagrad"),
        ("--target_epsilon=3", "--target_epsilon=4.0", "target_epsilon=3.0"),
        ("--delta=1e-4", "--delta=0.001", "delta=0.0001"),
        ("--batch_size=8", "--batch_size=16", "batch_size=8"),
        ("--seed=2", "--seed=1", "seed=2"),
        ("--accountant=pld", "--accountant=rdp", "accountant=pld"),
    ],
)
def test_other_settings_are_refused_by_name(flag, before, received, unfinished):
    with pytest.raises(UsageError, match=f"has {before}. Received: {received}$"):
        train_with(*ARGUMENTS, f"--output_dir={unfinished}", "--resume", flag)


def test_other_data_and_other_calibration_are_refused(unfinished, monkeypatch):
    arguments = [*ARGUMENTS, f"--output_dir={unfinished}", "--resume"]
    with monkeypatch.context() as patch:
        patch.setattr(train, "_calibrated", lambda *_: 1.25)
        with pytest.raises(UsageError, match=r"has --noise_multiplier=.*: noise_multiplier=1\.25$"):
            train_with(*arguments)
    data = crashing_training.tiny_data()
    data = dataclasses.replace(data, train=data.train.split(47)[0])
    monkeypatch.setattr(image_datasets, "load", lambda *_, **__: data)
    with pytest.raises(UsageError, match=r"digits \(48 training .*dataset=digits \(47 training"):
        train_with(*arguments)


def test_an_unfinished_run_is_not_started_over(unfinished):
    with pytest.raises(UsageError, match="1 of 4 epochs: go on with it by --resume, or .*another"):
        train_with(*ARGUMENTS, f"--output_dir={unfinished}")


def test_two_processes_do_not_go_on_from_one_checkpoint(unfinished):
    with train_checkpoint.alone_in(str(unfinished)):
        with pytest.raises(UsageError, match="Another process trains in --output_dir"):
            train_with(*ARGUMENTS, f"--output_dir={unfinished}", "--resume")


def test_a_damaged_checkpoint_is_not_passed_over(unfinished, tmp_path):
    whole = pathlib.Path(train_checkpoint.path_in(unfinished)).read_bytes()
    path = pathlib.Path(train_checkpoint.path_in(tmp_path))
    for content in (whole[: len(whole) // 2], b""):
        path.write_bytes(content)
        for flag in ("--resume", "--noresume"):
            with pytest.raises(UsageError, match="damaged.*Remove"):
                train_with(*ARGUMENTS, f"--output_dir={tmp_path}", flag)
        assert path.read_bytes() == content


def test_the_checkpoint_holds_no_metric_of_the_training_data(unfinished):
    with h5py.File(train_checkpoint.path_in(unfinished)) as file:
        assert set(file) == {"layers", "optimizer", "vars", "run"}
        assert set(file["vars"]) == {"ledger"}
    (epoch,) = train_checkpoint.read(str(unfinished)).epochs
    assert set(epoch) == {"epsilon", "val_loss", "val_accuracy", "seconds", "steps_per_second"}


def test_finished_and_new_runs(tmp_path, capsys):
    arguments = [*ARGUMENTS, f"--output_dir={tmp_path}"]
    report = train_with(*arguments, "--resume")
    assert "nothing to resume" in capsys.readouterr().out
    files = files_in(tmp_path)

    again = train_with(*arguments, "--resume")
    assert json.dumps(vars(again)) == json.dumps(vars(report))
    shown = capsys.readouterr().out
    assert "is finished; nothing is changed" in shown
    assert f"{report.test_accuracy:.2%}" in shown
    assert files_in(tmp_path) == files
    with pytest.raises(UsageError, match="has --epochs=4. Received: epochs=8$"):
        train_with(*arguments, "--resume", "--epochs=8")
    assert files_in(tmp_path) == files

    rerun = train_with(*arguments)  # As the quickstart does.
    assert rerun.steps == report.steps
    assert "resum" not in capsys.readouterr().out.lower()

    (tmp_path / "result.json").write_text("{}")
    with pytest.raises(UsageError, match="no record of this version"):
        train_with(*arguments, "--resume")


def test_a_rerun_that_crashes_at_once_is_not_taken_for_the_finished_run(tmp_path, monkeypatch):
    arguments = ["--noise_multiplier=1", f"--output_dir={tmp_path}"]
    train_with(*arguments, "--epochs=1")
    interrupt(monkeypatch, tmp_path, *arguments, after=0, epochs=2)
    assert train_with(*arguments, "--epochs=2", "--resume").epochs == 2
    interrupt(monkeypatch, tmp_path, *arguments, after=0, epochs=2)
    assert train_with(*arguments, "--epochs=1").epochs == 1  # Nothing is lost by starting over.


def test_a_run_that_crashed_behind_its_last_epoch_only_writes_its_results(
    tmp_path, monkeypatch, capsys
):
    interrupt(monkeypatch, tmp_path, "--target_epsilon=4", after=2, epochs=2)
    _, state = on_disk(tmp_path)
    report = train_with(f"--output_dir={tmp_path}", "--epochs=2", "--target_epsilon=4", "--resume")
    assert "Resuming after 2 of 2 epochs." in capsys.readouterr().out
    assert report.epochs == 2
    assert report.steps == 2 * STEPS_PER_EPOCH
    assert_same_weights(
        keras.saving.load_model(tmp_path / "model.keras").get_weights(), state["weights"]
    )


def test_a_budget_that_is_spent_before_the_last_epoch_finishes_the_run(
    tmp_path, monkeypatch, capsys
):
    interrupt(monkeypatch, tmp_path, "--target_epsilon=4", after=2, epochs=3)
    fit = tfdp.PrivateModel.fit

    def fit_with_the_rest_spent(private, batches, **options):
        noise_multiplier = private.optimizer.noise_multiplier
        step = tfdp.accounting.dp_sgd_event(noise_multiplier, batches.sampling_probability)
        private.ledger.charge(step, private.ledger.remaining_steps(step, 4, 1e-3))
        return fit(private, batches, **options)

    monkeypatch.setattr(tfdp.PrivateModel, "fit", fit_with_the_rest_spent)
    report = train_with(f"--output_dir={tmp_path}", "--epochs=3", "--target_epsilon=4", "--resume")
    assert "The budget is spent after 2 of 3 epochs." in capsys.readouterr().out
    assert report.epochs == 2
    assert report.epsilon["rdp"] <= 4
    assert not pathlib.Path(train_checkpoint.path_in(tmp_path)).exists()


def test_tensorboard_has_each_epoch_once(tmp_path, monkeypatch):
    flags = ["--noise_multiplier=1", f"--output_dir={tmp_path}"]
    interrupt(monkeypatch, tmp_path, *flags, after=2, epochs=3)
    for file in (tmp_path / "logs").rglob("events*"):
        file.unlink()  # What the crash kept from the disk.
    report = train_with(*flags, "--epochs=3", "--resume")
    found = {}
    for file in (tmp_path / "logs").rglob("events*"):
        for raw in tf.data.TFRecordDataset([str(file)]).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(raw)
            for value in event.summary.value:
                number = float(tf.make_ndarray(value.tensor)) if value.HasField("tensor") else None
                found.setdefault((file.parent.name, value.tag), []).append((event.step, number))
    expected = list(enumerate(report.history["test_accuracy"]))
    assert found["validation", "epoch_accuracy"] == [
        (step, pytest.approx(value)) for step, value in expected
    ]
    assert [step for step, _ in found["train", "epoch_epsilon"]] == [0, 1, 2]
    assert not [tag for _, tag in found if tag.startswith("evaluation")]
