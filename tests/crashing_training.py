"""A tiny run of `train.py`, also in a process of its own, to be killed: for tests of `--resume`."""

import os
import random
import signal
import stat
import types

import h5py
import keras
import numpy as np
from absl import flags

import tfdp
from tfdp.scripts import image_datasets, train, train_checkpoint, train_settings, whole_files
from tfdp.scripts.images import ArrayImages

STEPS_PER_EPOCH = 3


def tiny_data(*_, **__) -> image_datasets.ImageData:
    """Random images in place of digits, so that an epoch takes milliseconds."""
    numbers = np.random.default_rng(0)
    x, y = numbers.random((48, 8, 8, 1), "float32"), numbers.integers(0, 10, 48)
    images = ArrayImages(x, y)
    return image_datasets.ImageData("digits", images, images.split(8)[0], num_classes=10)


def train_with(*arguments: str):
    """Runs the program in this process."""
    values = flags.FlagValues()
    train_settings.declare_flags(values)
    values(["train.py", "--batch_size=16", "--delta=1e-3", "--verbose=0", *arguments])
    return train.train(values)


def snapshot(private: tfdp.PrivateModel) -> dict:
    """The state that a crash must not take apart."""
    return {
        "ledger": sum(release.count for release in private.ledger.releases),
        "iterations": int(private.optimizer.iterations),
        "weights": [variable.numpy() for variable in private.model.weights],
    }


def on_disk(folder):
    """What the checkpoint in a folder holds, in the terms of `snapshot`."""
    run = train_checkpoint.read(str(folder))
    with h5py.File(train_checkpoint.path_in(folder)) as file:
        ledger = tfdp.accounting.PrivacyLedger.from_json(bytes(file["vars/ledger"][()]).decode())
        weights = []

        def collect(name, item):
            if name.startswith("layers/") and isinstance(item, h5py.Dataset):
                weights.append(item[()])

        file.visititems(collect)
        return run, {
            "ledger": sum(release.count for release in ledger.releases),
            "iterations": int(file["optimizer/vars/0"][()]),
            "weights": weights,
        }


def assert_same_weights(some, others):
    assert len(some) == len(others) > 0
    for one, other in zip(some, others, strict=True):
        np.testing.assert_array_equal(one, other)


class TellFirstEpoch(keras.callbacks.Callback):
    """Tells the parent when one epoch is over: tracing it takes most of a short life."""

    def __init__(self, connection):
        super().__init__()
        self._connection = connection

    def on_epoch_end(self, epoch, logs=None):
        if self._connection is not None:
            self._connection.send("trained an epoch")
            self._connection = None


def live(connection, arguments: list[str], kill_at: tuple[str, int] | None = None) -> None:
    """Trains. Tells the parent from where, that it runs, and what it has released in the end.

    Args:
        connection: To the parent.
        arguments: Flags of the program.
        kill_at: Where this process kills itself, and at which of the files that must be whole:
            with `"half"` of it on the disk, `"before"` or `"after"` it takes its name, or with
            all files written and the run not yet marked as `"finished"`.
    """
    image_datasets.load = tiny_data
    fit, models = tfdp.PrivateModel.fit, []

    def telling_fit(private, *args, initial_epoch, callbacks, **options):
        connection.send((initial_epoch, snapshot(private)))
        callbacks = [*callbacks, TellFirstEpoch(connection)]
        return fit(private, *args, initial_epoch=initial_epoch, callbacks=callbacks, **options)

    def make_private(*args, make_private=tfdp.make_private, **options):
        models.append(make_private(*args, **options))
        return models[-1]

    tfdp.PrivateModel.fit = telling_fit
    tfdp.make_private = make_private
    if kill_at is not None:
        _kill_while_writing(*kill_at)
    report = train_with(*arguments)
    connection.send((report.epochs, snapshot(models[-1])))


def _kill_while_writing(stage: str, number: int) -> None:
    """Makes the process kill itself when it writes the `number`-th file that must be whole."""
    written = 0

    def kill_if(now: bool) -> None:
        if now and written == number:
            os.kill(os.getpid(), signal.SIGKILL)

    def fsync(descriptor: int) -> None:
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        if is_file and stage == "half" and written == number:  # The disk has some of the file.
            os.ftruncate(descriptor, random.randrange(os.fstat(descriptor).st_size))
        kill_if(is_file and stage == "half")
        os.fsync(descriptor)

    def replace(source: str, target: str) -> None:
        nonlocal written
        kill_if(stage == "before")
        os.replace(source, target)
        kill_if(stage == "after")
        written += 1

    def remove(path: str) -> None:
        kill_if(stage == "finished")
        os.remove(path)

    replaced = {"fsync": fsync, "replace": replace, "remove": remove}
    whole_files.os = train_checkpoint.os = types.SimpleNamespace(**{**vars(os), **replaced})
