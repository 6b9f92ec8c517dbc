"""A disk that is full, or cannot be written to, loses no trained model and ends in one line."""

import os
import pathlib
import resource
import signal
import subprocess
import sys
import textwrap

import crashing_training
import pytest
import tensorflow as tf
from crashing_training import STEPS_PER_EPOCH, on_disk, train_with

from tfdp.scripts import image_datasets, train, train_checkpoint, whole_files
from tfdp.scripts.command_line import UsageError


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setattr(image_datasets, "load", crashing_training.tiny_data)


@pytest.fixture
def no_large_files():
    """A function that lets this process write no file of more than so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def allow(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))

    yield allow
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


# The files of a run that are replaced as a whole: checkpoints from before and after the epochs,
# then model, page, statement as text and as JSON, picture and record.
@pytest.mark.parametrize("number", range(1, 8))
def test_whatever_cannot_be_written_the_run_goes_on_later(number, tmp_path, monkeypatch):
    flags = [f"--output_dir={tmp_path}", "--epochs=1", "--noise_multiplier=1"]
    replace, written = os.replace, []

    def full(source, target):
        if len(written) == number:
            raise OSError(28, "No space left on device", str(target))
        written.append(target)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(whole_files.os, "replace", full)
        with pytest.raises(UsageError, match="No space left.*kept in .*--resume.*Received: output"):
            train_with(*flags)
    assert not list(tmp_path.glob("partial.*"))
    run, state = on_disk(tmp_path)
    assert state["ledger"] == state["iterations"] == len(run.epochs) * STEPS_PER_EPOCH
    assert len(run.epochs) == (number > 1)
    assert train_with(*flags, "--resume").epochs == 1
    assert (tmp_path / "model.keras").exists()


def test_checkpoint_on_a_disk_that_is_full(tmp_path, monkeypatch, no_large_files):
    """HDF5 itself would end the process."""
    flags = [f"--output_dir={tmp_path}", "--noise_multiplier=1"]
    write = train_checkpoint.write

    def write_little(private, run, folder):
        if len(run.epochs) == 2:
            no_large_files(1000)
        write(private, run, folder)

    with monkeypatch.context() as patch:
        patch.setattr(train_checkpoint, "write", write_little)
        with pytest.raises(UsageError, match="File too large.*--resume"):
            train_with(*flags, "--epochs=2")
    no_large_files(resource.RLIM_INFINITY)
    run, state = on_disk(tmp_path)
    assert state["ledger"] == len(run.epochs) * STEPS_PER_EPOCH == STEPS_PER_EPOCH
    assert train_with(*flags, "--epochs=2", "--resume").epochs == 2


def test_logs_that_cannot_be_written_end_alone(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(train.keras.callbacks.TensorBoard, "on_epoch_end", full)
    report = train_with(f"--output_dir={tmp_path}", "--epochs=2", "--noise_multiplier=1")
    assert report.epochs == 2
    assert capsys.readouterr().err.count("No more TensorBoard logs are written") == 1


def test_the_program_ends_with_one_line(tmp_path):
    """With a real limit, in a process of its own."""
    code = """
        import resource, signal, sys
        import crashing_training
        from tfdp.scripts import image_datasets, train, train_checkpoint
        image_datasets.load = crashing_training.tiny_data
        write = train_checkpoint.write
        def write_little(private, run, folder):
            write(private, run, folder)
            if run.epochs:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        train_checkpoint.write = write_little
        train.main()
    """
    flags = [f"--output_dir={tmp_path}", "--epochs=1", "--noise_multiplier=1", "--batch_size=16"]
    paths = [str(pathlib.Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *flags, "--delta=1e-3", "--verbose=0"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "File too large" in last and "--resume" in last
    assert "Traceback" not in done.stderr
    assert train_with(*flags, "--resume").epochs == 1


def test_an_output_folder_that_cannot_be(tmp_path):
    """A path beneath a file: permissions do not bind an administrator."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="Nothing can be written to --output_dir"):
        train_with(f"--output_dir={tmp_path}/file/run", "--epochs=1", "--noise_multiplier=1")
