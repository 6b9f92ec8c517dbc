"""Trains an image classifier with differential privacy, and writes down what was guaranteed.

    python scripts/train.py                                 # scikit-learn's digits, seconds
    python scripts/train.py --dataset=mnist --target_epsilon=1
    tfdp-train --dataset=mnist --noise_multiplier=1.1 --activation="tempered_sigmoid(1.58,3,0.71)"

Flags that are not given come from a preset for the data set (`presets.py`). The results go to
`--output_dir`: the released model, its privacy statement, `result.json`, a page for the browser
(`report.html`), a picture of the training and TensorBoard logs. None of them holds a metric of the
training data, which privacy does not protect; only the progress on the screen does.

`--simulate_at` runs the same number of steps with a small batch, and noise in proportion, so that
hyper-parameters can be found at a fraction of the compute. Such a run is not private: its model is
called so, and its statement refuses an epsilon. `simulate.py` searches with such runs, and
`--from_simulation` trains what it found at the full batch size, privately.

`--dry_run` trains nothing: it prints the steps, epsilon, memory and time that the run would take.

`--strategy` trains on several devices or hosts, with the same result: each host runs the same
command, and the first one in `TF_CONFIG` writes.

`--features=patches`, or another kind, trains on features of the images that are not learned, and
centres them by noisy statistics, which are charged (`train_features.py`). The released model takes
images.

`--screening` keeps or undoes each update, by the loss on images that are declared public or by a
noisy score of private ones; what that costs is charged (`train_screening.py`).

A run that was interrupted goes on with the same command and `--resume`, after its last completed
epoch: with the weights, the optimizer and the privacy ledger of then, and with new noise.
"""

import dataclasses
import os
import pathlib
import shlex
import sys
import tempfile
from collections.abc import Callable

import keras
import tensorflow as tf
from absl import flags

import tfdp
from tfdp.scripts import (
    command_line,
    dry_run,
    image_datasets,
    train_accounting,
    train_activations,
    train_checkpoint,
    train_features,
    train_page,
    train_report,
    train_screening,
    train_settings,
    whole_files,
)
from tfdp.scripts.images import Images
from tfdp.scripts.presets import AUGMENTATIONS, MODELS, OPTIMIZERS
from tfdp.scripts.train_checkpoint import Run
from tfdp.scripts.train_settings import Settings


def main() -> None:
    """Runs the program on the flags of the command line."""
    command_line.run(__doc__, train_settings.declare_flags, train)


def train(values: flags.FlagValues) -> train_report.Report | dry_run.Estimate:
    """Trains as the flags say and writes the results; or estimates what that needs.

    Raises:
        command_line.UsageError: Before training, if something cannot be done.
    """
    train_settings.take_from_simulation(values)
    train_settings.check_flags(values)
    strategy = _strategy(values)  # Before all else: TensorFlow has it so with several hosts.
    if values.dry_run:
        return _estimate(values, strategy)
    folder = train_settings.output_dir(values)
    train_settings.prepare_output_dir(folder)
    if tfdp.distribution.is_first_worker(strategy):
        with train_checkpoint.alone_in(folder), train_checkpoint.kept(folder):
            return _train_in(folder, values, strategy, folder)
    with tempfile.TemporaryDirectory() as own:
        return _train_in(own, values, strategy, folder)


def _train_in(
    folder: str,
    values: flags.FlagValues,
    strategy: tf.distribute.Strategy,
    shared: str,
) -> train_report.Report:
    """What is left when the flags are checked and the folders are there.

    Args:
        folder: What this process writes to.
        values: The flags.
        strategy: What it trains under.
        shared: What the first worker writes to, and all workers go on from.
    """
    data, public, test_images = _load(values)
    settings = train_settings.settle(values, data)
    batches, noise_multiplier = _plan(settings, data, strategy.num_replicas_in_sync)
    run = Run(train_settings.to_repeat(settings, data, noise_multiplier))
    if values.resume and (finished := _finished(run, shared)):
        return finished
    run = _begin_or_go_on(run, shared, resume=values.resume)
    private = private_model(settings, data, noise_multiplier, strategy)
    if run.epochs:
        train_checkpoint.restore(private, shared)
    else:
        if settings.statistics is not None:
            _release_statistics(private, settings.statistics, data)
        # From now on there is an unfinished run, also where a finished one was before.
        train_checkpoint.write(private, run, folder)
    _fit(private, run, settings, batches, data, public, folder)
    if settings.ema_decay is not None:  # Also where training stopped with the budget.
        private.optimizer.finalize_variable_values(private.trainable_variables)

    model_file = train_report.model_file(folder, simulated=settings.simulate_at is not None)
    released = private.model
    if settings.features != "none":
        released = train_features.whole(settings.features, test_images.image_shape, released)
    with whole_files.replacing(model_file) as path:
        released.save(path)
    report = train_report.make(
        settings=settings,
        data=dataclasses.replace(data, test=test_images),
        batches=batches,
        noise_multiplier=noise_multiplier,
        private=private,
        model_file=model_file,
        run=run,
        command=shlex.join(sys.argv),
    )
    statement = private.privacy_statement(settings.delta)
    norms = train_page.gradient_norms(private.model, data.test)
    with whole_files.replacing(os.path.join(folder, train_page.PAGE_FILE)) as path:
        text = train_page.page(
            report, statement, private.ledger, train_report.picture(report), norms
        )
        pathlib.Path(path).write_text(text, encoding="utf-8")
    train_report.write(report, statement, folder)
    train_checkpoint.remove(folder)
    print(train_report.summary(report, folder))
    return report


def _strategy(values: flags.FlagValues) -> tf.distribute.Strategy:
    try:
        return tfdp.distribution.strategy(values.strategy, tpu=values.tpu)
    except (ValueError, RuntimeError) as error:
        raise command_line.UsageError(
            f"--strategy={values.strategy} does not work: {error}"
        ) from error


def _estimate(values: flags.FlagValues, strategy: tf.distribute.Strategy) -> dry_run.Estimate:
    data, _, _ = _load(values)
    settings = train_settings.settle(values, data)
    batches, noise_multiplier = _plan(settings, data, strategy.num_replicas_in_sync)
    private = private_model(settings, data, noise_multiplier, strategy)
    estimate = dry_run.estimate(private, settings, data, batches, noise_multiplier)
    print(estimate)
    return estimate


def _load(
    values: flags.FlagValues,
) -> tuple[image_datasets.ImageData, tfdp.sampling.PublicData | None, Images]:
    """The data to train and evaluate on, those that are declared public, and the test images.

    The data are images or their features; the test images are what the released model takes.
    """
    images = data = image_datasets.load(
        values.dataset,
        data_dir=values.data_dir,
        download=values.download,
        random_access=train_settings.random_access(values),
        image_size=train_settings.image_size(values),
    )
    if values.features != "none":
        data = train_features.extracted(images, values.features, values.features_dir)
    data = train_settings.hold_out(values, data)
    test_images = train_settings.hold_out(values, images).test
    data, public = train_screening.set_public_apart(train_screening.settle(values), data)
    return data, public, test_images


def _plan(
    settings: Settings, data: image_datasets.ImageData, replicas: int
) -> tuple[tfdp.sampling.PoissonDataset, float]:
    """How the run samples its batches, and the noise multiplier."""
    batches = batches_of(settings, data, replicas, settings.batch_size)
    noise_multiplier = settings.noise_multiplier
    if noise_multiplier is None:
        noise_multiplier = _calibrated(settings, batches, replicas)
    elif settings.target_epsilon is not None:
        _check_that_a_step_fits(settings, batches)
    if settings.simulate_at is not None:  # Smaller batches, as many of them, noise in proportion.
        noise_multiplier *= settings.simulate_at / settings.batch_size
        batches = batches_of(settings, data, replicas, settings.simulate_at, len(batches))
    return batches, noise_multiplier


def batches_of(
    settings: Settings,
    data: image_datasets.ImageData,
    replicas: int,
    size: int,
    steps_per_epoch: int | None = None,
) -> tfdp.sampling.PoissonDataset:
    """How batches of an expected size are sampled."""
    if not settings.static_batches:
        return data.train.poisson(size, steps_per_epoch)
    count = len(data.train)
    share = -(-count // replicas)  # Each replica's is cut by itself.
    capacity = replicas * max(1, tfdp.accounting.capacity_for(share, size / count))
    return data.train.poisson(size, steps_per_epoch, capacity)


def _finished(run: Run, folder: str) -> train_report.Report | None:
    """Shows the results of the run, if it is finished."""
    if train_checkpoint.read(folder) is not None:
        return None
    report = train_report.read(folder)
    if report is not None:
        train_settings.refuse_other(report.settings, run.settings)
        print(f"The run in {folder} is finished; nothing is changed.")
        print(train_report.summary(report, folder))
    return report


def _begin_or_go_on(run: Run, folder: str, *, resume: bool) -> Run:
    """The unfinished run, if it is to go on; else the new one, if nothing is lost by it."""
    unfinished = train_checkpoint.read(folder)
    if resume and unfinished is not None:
        train_settings.refuse_other(unfinished.settings, run.settings)
        print(f"Resuming after {len(unfinished.epochs)} of {run.settings['epochs']} epochs.")
        return unfinished
    if resume:
        print(f"There is nothing to resume in {folder}; starting from the beginning.")
    elif unfinished is not None and unfinished.epochs:
        raise command_line.UsageError(
            f"--output_dir holds an unfinished run, {len(unfinished.epochs)} of "
            f"{unfinished.settings['epochs']} epochs: go on with it by --resume, or start another "
            f"one in another --output_dir. Received: output_dir={folder!r}"
        )
    return run


def _fit(
    private: tfdp.PrivateModel,
    run: Run,
    settings: Settings,
    batches: tfdp.sampling.PoissonDataset,
    data: image_datasets.ImageData,
    public: tfdp.sampling.PublicData | None,
    folder: str,
) -> None:
    """Trains for the epochs that are left, as far as the budget allows."""
    if len(run.epochs) == settings.epochs:
        return
    screening = []
    if settings.screening is not None:
        screening = [train_screening.callback(settings.screening, data, public)]
    measured = []
    if settings.activation_norms:
        measured = [train_activations.ActivationNorms(private.model, data.test)]
    try:
        private.fit(
            batches,
            epochs=settings.epochs,
            initial_epoch=len(run.epochs),
            verbose=settings.verbose,
            validation_data=data.test.batches(),
            callbacks=[
                *screening,
                tfdp.callbacks.PrivacyBudget(
                    None if settings.simulate_at is not None else settings.target_epsilon,
                    settings.delta,
                    settings.accountant,
                ),
                *([] if settings.ema_decay is None else [keras.callbacks.SwapEMAWeights()]),
                *measured,
                train_checkpoint.CheckpointEachEpoch(run, folder),
                _ReleasableTensorBoard(run, os.path.join(folder, "logs"), write_graph=False),
            ],
        )
    except tfdp.callbacks.BudgetSpentError as error:
        if not run.epochs:
            raise command_line.UsageError(str(error)) from error
        print(f"The budget is spent after {len(run.epochs)} of {settings.epochs} epochs.")


def _calibrated(settings: Settings, batches: tfdp.sampling.PoissonDataset, replicas: int) -> float:
    """The least noise with which the whole run stays within the budget."""
    steps, target = settings.epochs * len(batches), settings.target_epsilon
    beside = train_accounting.beside_steps(
        settings.screening, settings.statistics, batches.num_examples, steps
    )
    while True:
        try:
            noise_multiplier = tfdp.accounting.noise_multiplier(
                target,
                batches.sampling_probability,
                steps,
                settings.delta,
                accountant=settings.accountant,
                beside=beside,
            )
        except ValueError as error:
            raise command_line.UsageError(f"No noise reaches the budget: {error}") from error
        if batches.capacity is None:
            return noise_multiplier
        # Cut samples cost a hair more.
        step = train_accounting.step_event(batches, noise_multiplier, replicas)
        spent = train_accounting.ledger_of(step, steps, beside).epsilon(
            settings.delta, settings.accountant
        )
        if spent <= settings.target_epsilon:
            return noise_multiplier
        target *= 0.9999 * settings.target_epsilon / spent


def _check_that_a_step_fits(settings: Settings, batches: tfdp.sampling.PoissonDataset) -> None:
    """Refuses a budget that not one step with the noise that was given fits into."""
    budget = tfdp.callbacks.PrivacyBudget(
        settings.target_epsilon, settings.delta, settings.accountant
    )
    if not budget.total_steps(settings.noise_multiplier, batches.sampling_probability):
        raise command_line.UsageError(
            "Not one step with this --noise_multiplier fits into the budget. Received: "
            f"target_epsilon={settings.target_epsilon}, "
            f"noise_multiplier={settings.noise_multiplier}"
        )


def private_model(
    settings: Settings,
    data: image_datasets.ImageData,
    noise_multiplier: float,
    strategy: tf.distribute.Strategy,
    make_private: Callable[..., tfdp.PrivateModel] | None = None,
) -> tfdp.PrivateModel:
    """The compiled model, on the strategy's devices.

    Args:
        settings: The settings.
        data: The data.
        noise_multiplier: The noise multiplier.
        strategy: What it is trained under.
        make_private: What makes it private: audits have a model of their own. Defaults to `None`,
            `tfdp.make_private`.
    """
    if settings.seed is not None:
        keras.utils.set_random_seed(settings.seed)
    policy = keras.config.dtype_policy()
    with strategy.scope():
        keras.config.set_dtype_policy(train_settings.PRECISIONS[settings.precision])
        try:
            model = _build(settings, data)
        finally:
            keras.config.set_dtype_policy(policy)
        return _compile(model, settings, data, noise_multiplier, make_private)


def _release_statistics(
    private: tfdp.PrivateModel,
    statistics: train_features.Statistics,
    data: image_datasets.ImageData,
) -> None:
    """Measures the statistics, charges for them, and sets them in the model's first layer."""
    found = statistics.measure(data.train)
    found.charge(private.ledger)
    layer = private.model.get_layer("statistics")
    layer.set_statistics(found.mean, found.directions, found.factors)


def _build(settings: Settings, data: image_datasets.ImageData) -> keras.Model:
    model = _network(settings, data)
    if settings.activation_norms and not train_activations.activations_of(model):
        raise command_line.UsageError(
            "--activation_norms needs a network with layers that are activations. "
            f"Received: model={settings.model}"
        )
    if settings.statistics is None:
        return model
    return train_features.with_scaling(model, settings.statistics.num_directions)


def _network(settings: Settings, data: image_datasets.ImageData) -> keras.Model:
    try:
        return MODELS[settings.model](
            settings.activation, input_shape=data.image_shape, num_classes=data.num_classes
        )
    except ValueError as error:
        raise command_line.UsageError(
            f"--model does not fit images of shape {data.image_shape}. "
            f"Received: model={settings.model}"
        ) from error


def _compile(
    model: keras.Model,
    settings: Settings,
    data: image_datasets.ImageData,
    noise_multiplier: float,
    make_private: Callable[..., tfdp.PrivateModel] | None,
) -> tfdp.PrivateModel:
    options = {} if settings.momentum is None else {"momentum": settings.momentum}
    if settings.ema_decay is not None:
        options |= {"use_ema": True, "ema_momentum": settings.ema_decay, "ema_warmup": True}
    private = (make_private or tfdp.make_private)(
        model,
        physical_batch_size=settings.physical_batch_size,
        augmentation=AUGMENTATIONS[settings.augmentation](data.image_shape),
        augmentation_multiplicity=settings.augmentation_multiplicity,
    )
    private.compile(
        optimizer=OPTIMIZERS[settings.optimizer](
            l2_norm_clip=settings.l2_norm_clip,
            noise_multiplier=noise_multiplier,
            learning_rate=settings.learning_rate,
            secure_noise=settings.secure_noise,
            **options,
        ),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=settings.static_batches,
    )
    if settings.simulate_at is not None:
        private.ledger.mark_not_private(tfdp.simulation.NOT_PRIVATE)
    private.optimizer.build(private.trainable_variables)  # checkpoints hold its state, too
    return private


class _ReleasableTensorBoard(keras.callbacks.TensorBoard):
    """TensorBoard logs of what may be shown: epsilon, and metrics of the test data.

    A disk that is full of them ends the logs, not the training.
    """

    def __init__(self, run: Run, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._run = run
        self._failed = False

    def set_model(self, model):
        self._unless_failed(super().set_model, model)

    def on_train_begin(self, logs=None):
        self._unless_failed(super().on_train_begin, logs)
        # A crash loses what was not yet flushed. TensorBoard takes the last of equal steps.
        for epoch, metrics in enumerate(self._run.epochs):
            self.on_epoch_end(epoch, metrics)

    def on_test_end(self, logs=None):
        """Logs nothing yet: this epoch's checkpoint is still to be written."""

    def on_epoch_end(self, epoch, logs=None):
        self._unless_failed(super().on_epoch_end, epoch, train_checkpoint.releasable(logs))

    def on_train_end(self, logs=None):
        self._unless_failed(super().on_train_end, logs)

    def _unless_failed(self, log: Callable[..., None], *args) -> None:
        if self._failed:
            return
        try:
            log(*args)
        except (OSError, tf.errors.OpError) as error:
            self._failed = True
            print(f"No more TensorBoard logs are written: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
