"""The checkpoint of `train.py`: a run that crashes goes on after its last completed epoch.

One file holds all of it: the weights, the optimizer, the privacy ledger and the record of the
epochs. It is replaced as a whole, so weights and ledger cannot part. There is one as long as a run
is unfinished: from before its first step until its results are written. Behind the HDF5 stands the
SHA-256 of it, so that nothing is read of a file that was cut, damaged or edited. It has no key.

Steps after the last checkpoint are lost in a crash, and the ledger does not know them. That is
right only as long as nothing of them was released: so an epoch's results are shown and logged
after its checkpoint is written, never before.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import h5py
import keras
import numpy as np

import tfdp
from tfdp.scripts import read_files, whole_files
from tfdp.scripts.command_line import UsageError

try:
    import fcntl
except ImportError:  # Windows has no locks that end with the process.
    fcntl = None

CHECKPOINT_FILE = "checkpoint.weights.h5"
_RECORD = "run"
_SEAL_BYTES = hashlib.sha256().digest_size


@dataclasses.dataclass
class Run:
    """How far a run has come.

    Attributes:
        settings: What a run that goes on must have in common with it, by flag.
        epochs: For each completed epoch: its metrics that may be released, how long it took
            (`seconds`) and the speed of its training (`steps_per_second`).
    """

    settings: dict[str, Any]
    epochs: list[dict[str, float]] = dataclasses.field(default_factory=list)

    def column(self, name: str) -> list[float]:
        """One number of each completed epoch."""
        return [epoch[name] for epoch in self.epochs]


#: Epsilon, and what screening shows: computed from public data, or noisy and charged.
_RELEASABLE = {
    "epsilon",
    "trials",
    "acceptance_rate",
    "rejections_in_a_row",
    "energy",
    "noisy_loss_change",
}


def releasable(logs: dict[str, float]) -> dict[str, float]:
    """Of an epoch's metrics those that may be shown: all but metrics of the training data."""
    return {
        name: float(value)
        for name, value in logs.items()
        if name in _RELEASABLE or name.startswith("val_")
    }


@contextlib.contextmanager
def alone_in(folder: str) -> Iterator[None]:
    """Keeps other processes from training in a folder, until the block or the process ends.

    Two that went on from one checkpoint would both release, and neither ledger would know.

    Raises:
        UsageError: If another process trains there.
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"Another process trains in --output_dir. Received: output_dir={folder!r}"
            ) from error
        except OSError:
            pass  # A file system without locks.
        yield
    finally:
        os.close(descriptor)


def path_in(folder: str) -> str:
    """The path of the checkpoint."""
    return os.path.join(folder, CHECKPOINT_FILE)


def read(folder: str) -> Run | None:
    """How far the unfinished run in a folder has come; `None` if there is none.

    Raises:
        UsageError: If the checkpoint cannot be read. No crash of the program leaves such a one,
            and an earlier one would hide steps whose results are known.
    """
    path = path_in(folder)
    if not os.path.exists(path):
        return None
    try:
        content = pathlib.Path(path).read_bytes()
        content, seal = content[:-_SEAL_BYTES], content[-_SEAL_BYTES:]
        if hashlib.sha256(content).digest() != seal:
            raise ValueError("it was cut, damaged or changed after it was written")
        with h5py.File(io.BytesIO(content)) as file:
            run = read_files.as_dataclass(Run, json.loads(bytes(file[_RECORD][()])))
        if not all({"seconds", "steps_per_second"} <= set(epoch) for epoch in run.epochs):
            raise ValueError("its record has an epoch that is none")
        return run
    except read_files.UNREADABLE as error:
        raise _damaged(folder, error) from error


def restore(private: tfdp.PrivateModel, folder: str) -> None:
    """Loads weights, optimizer and ledger into a model that is built and compiled alike.

    Raises:
        UsageError: If they are of another model, or the ledger knows of fewer steps than were made.
    """
    try:
        private.load_weights(path_in(folder))
        charged = sum(release.count for release in private.ledger.releases)
        if charged < int(private.optimizer.iterations):
            raise ValueError(
                f"its ledger has {charged} of {int(private.optimizer.iterations)} steps"
            )
    except read_files.UNREADABLE as error:
        raise _damaged(folder, error) from error


def write(private: tfdp.PrivateModel, run: Run, folder: str) -> None:
    """Writes a checkpoint in place of the one before."""
    memory = _Memory()  # HDF5 ends the process where a disk is full.
    private.save_weights(memory)
    with h5py.File(memory, "a") as file:
        file[_RECORD] = np.frombuffer(json.dumps(dataclasses.asdict(run)).encode(), np.uint8)
    with whole_files.replacing(path_in(folder)) as partial, open(partial, "wb") as file:
        file.write(memory.getbuffer())
        file.write(hashlib.sha256(memory.getbuffer()).digest())


@contextlib.contextmanager
def kept(folder: str) -> Iterator[None]:
    """Says where to go on from, if a file cannot be written: a full disk loses no trained model.

    Raises:
        UsageError: In place of an `OSError`.
    """
    try:
        yield
    except OSError as error:
        left = "Nothing was trained yet."
        if os.path.exists(path_in(folder)):
            left = (
                f"What was trained is kept in {path_in(folder)!r}: once there is room, the same "
                "command with --resume goes on after the last completed epoch."
            )
        raise UsageError(
            f"A file could not be read or written: {error}. {left} Received: output_dir={folder!r}"
        ) from error


def remove(folder: str) -> None:
    """Marks a run as finished."""
    os.remove(path_in(folder))


class CheckpointEachEpoch(keras.callbacks.Callback):
    """Adds each completed epoch to the run, and writes a checkpoint.

    List it behind what computes the epoch's metrics and before what shows them.
    """

    def __init__(self, run: Run, folder: str):
        super().__init__()
        self._run = run
        self._folder = folder

    def on_epoch_begin(self, epoch, logs=None):
        self._started, self._steps = time.perf_counter(), 0

    def on_train_batch_end(self, batch, logs=None):
        self._steps += 1
        self._trained = time.perf_counter()  # what follows is evaluation

    def on_epoch_end(self, epoch, logs=None):
        self._run.epochs.append(
            {
                **releasable(logs),
                "seconds": time.perf_counter() - self._started,
                "steps_per_second": self._steps / (self._trained - self._started),
            }
        )
        write(self.model, self._run, self._folder)


class _Memory(io.BytesIO):
    """A file in memory, which Keras takes for one of weights by its name."""

    def __str__(self) -> str:
        return CHECKPOINT_FILE


def _damaged(folder: str, error: Exception) -> UsageError:
    return UsageError(
        f"The checkpoint in --output_dir is damaged, and the run in it is lost: "
        f"{read_files.short(error)}. "
        f"Remove {path_in(folder)!r} to start over. Received: output_dir={folder!r}"
    )
