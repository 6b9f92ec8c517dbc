"""Trains an image classifier with differential privacy, and writes down what was guaranteed.

    python scripts/train.py                                 # scikit-learn's digits, seconds
    python scripts/train.py --dataset=mnist --target_epsilon=1
    tfdp-train --dataset=mnist --noise_multiplier=1.1 --activation="tempered_sigmoid(1.58,3,0.71)"

Flags that are not given come from a preset for the data set (`presets.py`). The results go to
`--output_dir`: the released model, its privacy statement, `result.json`, a picture of the training
and TensorBoard logs. None of them holds a metric of the training data, which privacy does not
protect; only the progress on the screen does.
"""

import os
import shlex
import sys
import time

import keras
from absl import flags

import tfdp
from tfdp.scripts import command_line, image_datasets, train_report, train_settings
from tfdp.scripts.presets import MODELS, OPTIMIZERS
from tfdp.scripts.train_settings import Settings


def main() -> None:
    """Runs the program on the flags of the command line."""
    command_line.run(__doc__, train_settings.declare_flags, train)


def train(values: flags.FlagValues) -> train_report.Report:
    """Trains as the flags say and writes the results.

    Raises:
        command_line.UsageError: Before training, if something cannot be done.
    """
    train_settings.check_flags(values)
    folder = train_settings.output_dir(values)
    train_settings.prepare_output_dir(folder)
    data = image_datasets.load(values.dataset, data_dir=values.data_dir, download=values.download)
    settings = train_settings.settle(values, data)
    batches = tfdp.sampling.PoissonDataset(
        data.x_train, data.y_train, expected_batch_size=settings.batch_size
    )
    noise_multiplier = settings.noise_multiplier
    if noise_multiplier is None:
        noise_multiplier = _calibrated(settings, batches)
    if settings.seed is not None:
        keras.utils.set_random_seed(settings.seed)
    model = _build(settings, data)
    private = _compile(model, settings, noise_multiplier)

    clock = _TrainingClock()
    started = time.perf_counter()
    history = private.fit(
        batches,
        epochs=settings.epochs,
        verbose=settings.verbose,
        validation_data=(data.x_test, data.y_test),
        callbacks=[
            tfdp.callbacks.PrivacyBudget(
                settings.target_epsilon, settings.delta, settings.accountant
            ),
            _ReleasableTensorBoard(os.path.join(folder, "logs"), write_graph=False),
            clock,
        ],
    )
    seconds = time.perf_counter() - started

    model_file = os.path.join(folder, train_report.MODEL_FILE)
    model.save(model_file)
    report = train_report.make(
        settings=settings,
        data=data,
        batches=batches,
        noise_multiplier=noise_multiplier,
        private=private,
        model_file=model_file,
        history=history.history,
        seconds=seconds,
        steps_per_second=clock.steps_per_second,
        command=shlex.join(sys.argv),
    )
    train_report.write(report, private.privacy_statement(settings.delta), folder)
    print(train_report.summary(report, folder))
    return report


def _calibrated(settings: Settings, batches: tfdp.sampling.PoissonDataset) -> float:
    """The least noise with which the whole run stays within the budget."""
    try:
        return tfdp.accounting.noise_multiplier(
            settings.target_epsilon,
            batches.sampling_probability,
            settings.epochs * len(batches),
            settings.delta,
            accountant=settings.accountant,
        )
    except ValueError as error:
        raise command_line.UsageError(f"No noise reaches the budget: {error}") from error


def _build(settings: Settings, data: image_datasets.ImageData) -> keras.Model:
    try:
        return MODELS[settings.model](
            settings.activation, input_shape=data.image_shape, num_classes=data.num_classes
        )
    except ValueError as error:
        raise command_line.UsageError(
            f"--model does not fit images of shape {data.image_shape}. "
            f"Received: model={settings.model}"
        ) from error


def _compile(model: keras.Model, settings: Settings, noise_multiplier: float) -> tfdp.PrivateModel:
    momentum = {} if settings.momentum is None else {"momentum": settings.momentum}
    private = tfdp.make_private(model, physical_batch_size=settings.physical_batch_size)
    private.compile(
        optimizer=OPTIMIZERS[settings.optimizer](
            l2_norm_clip=settings.l2_norm_clip,
            noise_multiplier=noise_multiplier,
            learning_rate=settings.learning_rate,
            **momentum,
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return private


class _TrainingClock(keras.callbacks.Callback):
    """Times the training steps of an epoch, without evaluation.

    The first epoch, in which TensorFlow traces the step, counts only when there is no other.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps_per_second = 0.0

    def on_epoch_begin(self, epoch, logs=None):
        if epoch <= 1:
            self._seconds, self._steps = 0.0, 0
        self._started = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self._steps += 1
        self._last = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self._seconds += self._last - self._started
        self.steps_per_second = self._steps / self._seconds


class _ReleasableTensorBoard(keras.callbacks.TensorBoard):
    """TensorBoard logs of what may be shown: epsilon, and metrics of the test data."""

    def on_epoch_end(self, epoch, logs=None):
        shown = {
            name: value
            for name, value in (logs or {}).items()
            if name == "epsilon" or name.startswith("val_")
        }
        super().on_epoch_end(epoch, shown)


if __name__ == "__main__":
    main()
