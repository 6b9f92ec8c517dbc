"""Backups of a training run on several hosts."""

from __future__ import annotations

import keras

from tfdp import _replicas


class BackupAndRestore(keras.callbacks.BackupAndRestore):
    """Keras's callback of this name, for training on several hosts too.

    All workers train the same model, so the first one writes it down and all of them restore it:
    they cannot go on from different epochs. ``backup_dir`` is a folder that every worker sees.
    When a worker dies the others end with an error; start all of them again with the same command.

    The backup holds the weights, the optimizer, the state of screening and the privacy ledger.
    Steps after it are lost in a crash, and were released by nobody as long as nothing but the
    backup leaves the training run.

    Args:
        backup_dir: Folder of the backup.
        **kwargs: As in Keras: ``save_freq``, ``double_checkpoint``, ``delete_checkpoint``.

    Raises:
        ValueError: If ``backup_dir`` is empty, or the model is not built when training begins.

    Example:
        >>> import tempfile, tfdp
        >>> backup = tfdp.callbacks.BackupAndRestore(tempfile.mkdtemp())  # callbacks=[backup, ...]
    """

    def __init__(self, backup_dir: str, **kwargs):
        super().__init__(backup_dir, **kwargs)

    def on_train_batch_end(self, batch, logs=None):
        if self._is_first_worker():
            super().on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch, logs=None):
        if self._is_first_worker():
            super().on_epoch_end(epoch, logs)

    def on_train_end(self, logs=None):
        if self._is_first_worker():
            super().on_train_end(logs)

    def _is_first_worker(self) -> bool:
        return _replicas.is_first_worker(self.model.distribute_strategy)
