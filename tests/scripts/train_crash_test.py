"""Processes that are killed while they train: `--resume` goes on, and nothing comes apart."""

import contextlib
import json
import multiprocessing
import pathlib
import random
import shutil
import signal

import keras
import pytest
from crashing_training import STEPS_PER_EPOCH, assert_same_weights, live, on_disk

from tfdp.scripts import train_checkpoint


class Lives:
    """Processes that train in one folder, one after the other."""

    def __init__(self, folder, epochs):
        # The server imports the program once; no life pays for TensorFlow.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tfdp.scripts.train"])
        self._flags = [f"--output_dir={folder}", f"--epochs={epochs}", "--noise_multiplier=1"]
        self._folder = folder

    def start(self, **options):
        """Starts a process. It goes on from what the one before left, so that must be whole."""
        self.found = self.completed()
        self._weights = on_disk(self._folder)[1]["weights"] if self.found else None
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=live,
            args=(sender, [*self._flags, "--resume"]),
            kwargs=options,
        )
        process.start()
        sender.close()
        return process, said_by(receiver)

    def check_start(self, message):
        """What training started from is what was on the disk."""
        epoch, state = message
        assert epoch == (self.found or 0)
        assert state["ledger"] == state["iterations"] == epoch * STEPS_PER_EPOCH
        if epoch:
            assert_same_weights(state["weights"], self._weights)

    def completed(self):
        """Completed epochs of the checkpoint, `None` without one; fails if it is not whole."""
        if not pathlib.Path(train_checkpoint.path_in(self._folder)).exists():
            return None
        run, state = on_disk(self._folder)
        assert state["ledger"] == state["iterations"] == len(run.epochs) * STEPS_PER_EPOCH
        return len(run.epochs)

    def check_finished(self, message, epochs):
        """What was released is what was charged, and it is all there."""
        epochs_run, state = message
        assert state["ledger"] == state["iterations"] == epochs * STEPS_PER_EPOCH
        record = json.loads((self._folder / "result.json").read_text())
        assert record["epochs"] == epochs_run == epochs == len(record["history"]["epsilon"])
        assert record["steps"] == epochs * STEPS_PER_EPOCH
        statement = json.loads((self._folder / "privacy_statement.json").read_text())
        assert sum(release["steps"] for release in statement["releases"]) == record["steps"]
        assert record["history"]["epsilon"] == sorted(record["history"]["epsilon"])
        model = keras.saving.load_model(self._folder / "model.keras")
        assert_same_weights(model.get_weights(), state["weights"])
        assert sorted(path.name for path in self._folder.iterdir()) == [
            *("history.png", "logs", "model.keras"),
            *("privacy_statement.json", "privacy_statement.txt", "report.html", "result.json"),
        ]


def said_by(receiver):
    """What a process says until it ends, which may be in the middle of a word."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            yield receiver.recv()


@pytest.mark.slow
def test_twenty_kills_at_random_moments(tmp_path):
    chance, epochs = random.Random(20), 60
    folder = tmp_path / "run"
    lives = Lives(folder, epochs)
    kills = 0
    while kills < 20:
        process, said = lives.start()
        if kills % 2:  # At any moment of training, evaluating and writing checkpoints.
            lives.check_start(next(said))
            next(said, None)  # That it has trained an epoch, unless none was left.
            process.join(timeout=chance.uniform(0, 0.4))
        else:  # At any moment of the start and of what comes after it.
            process.join(timeout=chance.uniform(0, 3))
        process.kill()
        process.join()
        if process.exitcode == 0:  # It was faster than the kill: from the beginning.
            shutil.rmtree(folder)
            continue
        assert process.exitcode == -signal.SIGKILL
        kills += 1
        assert (lives.completed() or 0) >= (lives.found or 0)

    process, said = lives.start()
    said = list(said)
    process.join()
    assert process.exitcode == 0
    lives.check_start(said[0])
    lives.check_finished(said[-1], epochs)


# Where a life ends, and the completed epochs that it leaves. A run writes a checkpoint before its
# first epoch and after each; then model, page, statement as text and as JSON, picture and record.
WRITING = [
    (("half", 0), None),
    (("half", 1), 0),
    (("after", 1), 1),
    (("before", 0), 1),
    (("half", 1), 2),  # of the model
    (("half", 5), 2),  # of the record
    (("finished", 6), 2),
]


@pytest.mark.slow
def test_kills_in_the_middle_of_writing(tmp_path):
    lives = Lives(tmp_path, 2)
    for kill_at, left in WRITING:
        process, said = lives.start(kill_at=kill_at)
        said = list(said)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        if said:
            lives.check_start(said[0])
        assert lives.completed() == left
    process, said = lives.start()
    said = list(said)
    process.join()
    assert process.exitcode == 0
    lives.check_finished(said[-1], 2)
