"""One of several workers on this host: trains and writes its weights.

    python tests/training_with_workers.py FOLDER PORT WORKERS INDEX EPOCHS SECONDS

With SECONDS above zero each epoch waits so long, so that a worker can be killed in time, and
backups are written. One worker: without a strategy, to compare with.
"""

import json
import os
import pathlib
import sys
import time

import keras
import numpy as np

import tfdp


class Slow(keras.callbacks.Callback):
    """Says where training is, and waits."""

    def __init__(self, seconds):
        super().__init__()
        self._seconds = seconds

    def on_epoch_end(self, epoch, logs=None):
        print("epoch", epoch, flush=True)
        time.sleep(self._seconds)


def main():
    folder = pathlib.Path(sys.argv[1])
    port, workers, index, epochs = map(int, sys.argv[2:6])
    seconds = float(sys.argv[6])
    if workers > 1:
        hosts = [f"127.0.0.1:{port + number}" for number in range(workers)]
        task = {"type": "worker", "index": index}
        os.environ["TF_CONFIG"] = json.dumps({"cluster": {"worker": hosts}, "task": task})
    numbers = np.random.default_rng(0)
    x, y = numbers.random((31, 6, 6, 1)).astype("float32"), numbers.integers(0, 3, 31)
    name = "multi_worker" if workers > 1 else "none"
    with tfdp.distribution.strategy(name).scope():
        keras.utils.set_random_seed(1)
        layers = [keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
        private = tfdp.make_private(keras.Sequential(layers))
        private.compile(
            tfdp.optimizers.VectorizedDPKerasSGDOptimizer(1.0, 0.0, learning_rate=0.5),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
    callbacks = []
    if seconds:
        callbacks = [tfdp.callbacks.BackupAndRestore(str(folder / "backup")), Slow(seconds)]
    # Every batch is all examples; of several workers each has only a part of them.
    total = len(x)
    if workers > 1:
        mine = np.array_split(np.arange(total), workers)[index]
        data = tfdp.sampling.PoissonDataset(
            x[mine], y[mine], expected_batch_size=total, steps_per_epoch=2, num_examples=total
        )
    else:
        data = tfdp.sampling.PoissonDataset(x, y, expected_batch_size=total, steps_per_epoch=2)
    history = private.fit(
        data, epochs=epochs, verbose=0, callbacks=callbacks, validation_data=(x, y)
    )
    np.savez(
        folder / f"{workers}_{index}.npz",
        loss=history.history["loss"],
        val_accuracy=history.history["val_accuracy"],
        charged=sum(release.count for release in private.ledger.releases),
        steps=private.optimizer.iterations.numpy(),
        weights=np.concatenate([np.asarray(value).ravel() for value in private.get_weights()]),
    )


if __name__ == "__main__":
    main()
