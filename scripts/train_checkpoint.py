"""The checkpoint of `train.py`: a run that crashes goes on after its last completed epoch.

One file holds all of it: the weights, the optimizer, the privacy ledger and the record of the
epochs. It is replaced as a whole, so weights and ledger cannot part. There is one as long as a run
is unfinished: from before its first step until its results are written.

Steps after the last checkpoint are lost in a crash, and the ledger does not know them. That is
right only as long as nothing of them was released: so an epoch's results are shown and logged
after its checkpoint is written, never before.
"""

import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterator
from typing import Any

import h5py
import keras
import numpy as np

import tfdp
from tfdp.scripts import whole_files
from tfdp.scripts.command_line import UsageError

try:
    import fcntl
except ImportError:  # Windows has no locks that end with the process.
    fcntl = None

CHECKPOINT_FILE = "checkpoint.weights.h5"
_RECORD = "run"


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
        with h5py.File(path) as file:
            return Run(**json.loads(bytes(file[_RECORD][()])))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"The checkpoint in --output_dir is damaged, and the run in it is lost: {error}. "
            f"Remove {path!r} to start over. Received: output_dir={folder!r}"
        ) from error


def restore(private: tfdp.PrivateModel, folder: str) -> None:
    """Loads weights, optimizer and ledger into a model that is built and compiled alike."""
    private.load_weights(path_in(folder))


def write(private: tfdp.PrivateModel, run: Run, folder: str) -> None:
    """Writes a checkpoint in place of the one before."""
    with whole_files.replacing(path_in(folder)) as partial:
        private.save_weights(partial)
        with h5py.File(partial, "a") as file:
            file[_RECORD] = np.frombuffer(json.dumps(dataclasses.asdict(run)).encode(), np.uint8)


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
