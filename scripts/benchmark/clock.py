"""Times the steps of `fit`."""

import time

import keras


class Clock(keras.callbacks.Callback):
    """Seconds of each epoch after its first step, by step."""

    def __init__(self):
        super().__init__()
        self.seconds = []

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 1:
            self._started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        elapsed = time.perf_counter() - self._started
        self.seconds.append(elapsed / (self.params["steps"] - 1))
