"""Writes down, epoch by epoch, what has been spent and on which mechanism."""

from __future__ import annotations

import csv
import os

import tensorflow as tf

from tfdp import _validate
from tfdp.callbacks.privacy_callback import PrivacyCallback

_SHOWN = ("epsilon", "noise_multiplier", "sampling_probability", "expected_batch_size", "steps")
_COLUMNS = ("epoch", *_SHOWN, "delta")


class PrivacyLog(PrivacyCallback):
    """Adds the privacy parameters of each epoch to ``logs``, and writes them to files.

    | key | meaning |
    | --- | --- |
    | ``epsilon`` | of everything in the model's ledger, at ``delta`` |
    | ``noise_multiplier`` | of a step, relative to the clip norm |
    | ``sampling_probability`` | of a step: chance of each example to be in its batch |
    | ``expected_batch_size`` | of a step |
    | ``steps`` | charged to the ledger so far (passes, for data declared ``"shuffled"``) |

    They are then in the history and in every logger that is listed later. The files hold these
    numbers alone and no metric of the training data, which privacy does not protect.

    Args:
        delta: Probability with which the epsilon guarantee may fail, in (0, 1).
        accountant: ``"rdp"`` or ``"pld"``. Defaults to ``"rdp"``.
        csv_path: File that gets a row an epoch. Training that goes on, in a second ``fit`` or
            after a restored checkpoint, appends to it: rows of steps that the model's ledger
            does not hold are dropped, as a crash undid those. A new model starts a new file.
            Defaults to ``None``, no file.
        log_dir: Folder for TensorBoard scalars ``privacy/...``. Defaults to ``None``, none.

    Raises:
        ValueError: If an argument is out of range; from ``fit``, if the model is not private or
            the file at ``csv_path`` is something else.

    Example:
        >>> import keras, numpy as np, tfdp
        >>> private = tfdp.make_private(keras.Sequential([keras.layers.Dense(2)]))
        >>> private.compile(
        ...     tfdp.optimizers.VectorizedDPKerasSGDOptimizer(1.0, noise_multiplier=2.0),
        ...     loss="mse")
        >>> x, y = np.zeros((100, 4)), np.zeros((100, 2))
        >>> log = tfdp.callbacks.PrivacyLog(delta=1e-3)
        >>> history = private.fit(x, y, batch_size=10, callbacks=[log], verbose=0).history
        >>> history["noise_multiplier"], history["sampling_probability"], history["steps"]
        ([2.0], [0.1], [10])
    """

    def __init__(
        self,
        delta: float,
        *,
        accountant: str = "rdp",
        csv_path: str | os.PathLike | None = None,
        log_dir: str | os.PathLike | None = None,
    ):
        super().__init__(delta, accountant)
        self.csv_path = None if csv_path is None else _validate.path("csv_path", csv_path)
        self.log_dir = None if log_dir is None else _validate.path("log_dir", log_dir)
        self._continues = False
        self._writer = None

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._continues = False
        if self.csv_path is not None:
            _read(self.csv_path)  # What cannot be gone on with is refused before any step.
        if self.log_dir is not None:
            self._writer = tf.summary.create_file_writer(self.log_dir)

    def on_epoch_begin(self, epoch, logs=None):
        # Not in `on_train_begin`, where a callback listed later may still restore a ledger.
        if self.csv_path is not None and not self._continues:
            steps = self._steps()
            _write(self.csv_path, [row for row in _read(self.csv_path) if row["steps"] <= steps])
            self._continues = True

    def on_epoch_end(self, epoch, logs=None):
        logs = {} if logs is None else logs
        super().on_epoch_end(epoch, logs)
        mechanism = self.model.mechanism
        logs.update(
            noise_multiplier=mechanism.noise_multiplier,
            sampling_probability=mechanism.scheme.sampling_probability,
            expected_batch_size=mechanism.expected_batch_size,
            steps=self._steps(),
        )
        if self.csv_path is not None:
            row = {"epoch": epoch, **{name: logs[name] for name in _SHOWN}, "delta": self.delta}
            with open(self.csv_path, "a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, _COLUMNS).writerow(row)
        if self._writer is not None:
            with self._writer.as_default(step=epoch):
                for name in _SHOWN:
                    tf.summary.scalar(f"privacy/{name}", logs[name])
            self._writer.flush()

    def on_train_end(self, logs=None):
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _steps(self) -> int:
        return sum(release.count for release in self.model.ledger.releases)


def _read(path: str) -> list[dict]:
    """The rows of a log; without its last line, if a crash left that incomplete."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8", newline="") as file:
        lines = file.read().splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    if lines and lines[0].strip() != ",".join(_COLUMNS):
        raise ValueError(
            "The file of a privacy log holds something else and would be lost. "
            f"Received: csv_path={path!r}"
        )
    return [{**row, "steps": int(row["steps"])} for row in csv.DictReader(lines)]


def _write(path: str, rows: list[dict]) -> None:
    temporary = f"{path}.partial"
    with open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    os.replace(temporary, path)
