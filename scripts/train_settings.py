"""The flags of `train.py`, and the settings that they and a preset make together."""

import dataclasses
import math
import os
import re
import tempfile
from collections.abc import Callable
from typing import Any

import keras
from absl import flags

import tfdp
from tfdp.scripts import image_datasets, read_files, train_features, train_screening
from tfdp.scripts.command_line import UsageError
from tfdp.scripts.presets import (
    ACTIVATIONS,
    AUGMENTATIONS,
    MODELS,
    OPTIMIZERS,
    PRESETS,
    RECIPES,
    preset_for,
)

REFERENCE_FILE = "reference.json"
# The dtype policies of Keras.
PRECISIONS = {
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}
_DEFAULT = "Defaults to the preset."


def declare_flags(values: flags.FlagValues) -> None:
    """Defines the flags of `train.py` on `values`."""

    def define(kind, name, default, text, *args, **kwargs):
        kind(name, default, *args, help=text, flag_values=values, **kwargs)

    text, real, whole = flags.DEFINE_string, flags.DEFINE_float, flags.DEFINE_integer
    define(
        text,
        "dataset",
        "digits",
        f"Data set: one with a preset ({', '.join(PRESETS)}) or another image classification set "
        "of TensorFlow Datasets.",
    )
    image_datasets.declare_flags(values)
    define(
        flags.DEFINE_bool,
        "random_access",
        None,
        "Read images from files when they are needed, for sets that do not fit into memory. Needs "
        f"files with random access, as ArrayRecord. {_DEFAULT}",
    )
    define(
        whole,
        "image_size",
        None,
        "With --random_access: scale the images, and cut out a square of this size. " + _DEFAULT,
    )
    define(
        flags.DEFINE_enum,
        "features",
        "none",
        "Train on features of the images that are not learned; the released model works them out.",
        list(train_features.FEATURES),
    )
    define(
        text,
        "features_dir",
        os.path.join("runs", "features"),
        "Folder that features are kept in, for the next run.",
    )
    define(
        flags.DEFINE_enum,
        "feature_statistics",
        None,
        "Noisy statistics that features are centred by, and with directions also scaled by; "
        f"charged. {_DEFAULT}",
        list(train_features.STATISTICS),
    )
    define(
        real,
        "statistics_noise_multiplier",
        None,
        f"Noise of --feature_statistics as a multiple of their sensitivity. {_DEFAULT}",
    )
    define(whole, "num_directions", None, f"For --feature_statistics=directions. {_DEFAULT}")
    define(
        flags.DEFINE_enum,
        "preset",
        None,
        "Published recipe. Defaults to that of the data set.",
        list(RECIPES),
    )
    define(flags.DEFINE_enum, "model", None, f"Network. {_DEFAULT}", list(MODELS))
    define(
        text,
        "activation",
        None,
        "Activation between layers: the name of a Keras activation, tempered_sigmoid, or "
        f"tempered_sigmoid(SCALE,TEMPERATURE,OFFSET). {_DEFAULT}",
    )
    define(
        real,
        "target_epsilon",
        None,
        f"Privacy budget: the noise is calibrated so that the whole run spends it. {_DEFAULT} "
        "With --noise_multiplier the run stops where it is spent.",
    )
    define(
        real,
        "noise_multiplier",
        None,
        "Noise as a multiple of the clip norm, in place of a calibrated one.",
    )
    define(
        flags.DEFINE_bool,
        "secure_noise",
        False,
        "Noise that the lowest bits of weights tell nothing about: a discrete Gaussian of the "
        "operating system's random bits. Slower; on one device.",
    )
    define(
        real, "delta", None, f"Delta of the guarantee, at most 1 / training examples. {_DEFAULT}"
    )
    define(whole, "batch_size", None, f"Expected batch size of Poisson sampling. {_DEFAULT}")
    define(whole, "epochs", None, f"Expected passes over the data. {_DEFAULT}")
    define(real, "learning_rate", None, f"Learning rate. {_DEFAULT}")
    define(real, "momentum", None, f"Momentum, for --optimizer=sgd. {_DEFAULT}")
    define(flags.DEFINE_enum, "optimizer", None, f"Optimizer. {_DEFAULT}", list(OPTIMIZERS))
    define(real, "l2_norm_clip", None, f"Clip norm of one example's gradient. {_DEFAULT}")
    define(
        flags.DEFINE_enum,
        "augmentation",
        None,
        "Of training images: windows of the padded image, mirrored ones, other colours. "
        + _DEFAULT,
        list(AUGMENTATIONS),
    )
    define(
        whole,
        "augmentation_multiplicity",
        None,
        f"Augmented views of each image, whose mean gradient is clipped. {_DEFAULT}",
    )
    define(
        real,
        "ema_decay",
        None,
        f"Release the average of the weights over steps, with this decay; 0 for none. {_DEFAULT}",
    )
    define(
        whole,
        "physical_batch_size",
        None,
        "Examples held in memory at a time; changes cost, not results. Defaults to tfdp's choice.",
    )
    define(
        flags.DEFINE_enum,
        "precision",
        "float32",
        "Of activations; weights, norms, sums and noise are float32 in any case.",
        list(PRECISIONS),
    )
    define(
        flags.DEFINE_enum,
        "strategy",
        "none",
        "Devices: one; all of this host; those of all hosts in TF_CONFIG, of which each runs this "
        "command, with an --output_dir that all of them see; a TPU. Changes cost, not results.",
        list(tfdp.distribution.NAMES),
    )
    define(text, "tpu", None, "Name or address of the TPU. Defaults to what the environment says.")
    define(
        flags.DEFINE_bool,
        "static_batches",
        False,
        "Batches of one shape, and a step compiled by XLA. Larger samples are cut, which is "
        "accounted for. --strategy=tpu does so in any case.",
    )
    define(
        flags.DEFINE_enum,
        "accountant",
        "rdp",
        "Accounting that calibrates the noise and keeps the budget.",
        ["rdp", "pld"],
    )
    define(
        whole,
        "seed",
        None,
        "Seed of the initial weights. Sampling and noise always come from the operating system.",
    )
    define(
        whole,
        "simulate_at",
        None,
        "Simulate the run, for tuning, with this smaller batch and noise in proportion: about as "
        "accurate, at a fraction of the compute, and NOT PRIVATE.",
    )
    define(
        text,
        "from_simulation",
        None,
        "Folder of simulate.py: train what it found, at the batch size that it simulated. Flags "
        "that are given take precedence.",
    )
    define(
        whole,
        "validation_examples",
        0,
        "Evaluate on so many of the last training images, which are not trained on, in place of "
        "the test images: for tuning.",
    )
    define(
        flags.DEFINE_bool,
        "activation_norms",
        False,
        "Measure after every epoch how large the activations of 512 test images are.",
    )
    train_screening.declare_flags(values)
    define(text, "output_dir", None, "Folder for the results. Defaults to runs/<dataset>.")
    define(
        flags.DEFINE_bool,
        "resume",
        False,
        "Go on with the unfinished run in --output_dir, after its last completed epoch.",
    )
    define(
        flags.DEFINE_bool,
        "dry_run",
        False,
        "Train and write nothing: say what the run would spend and cost, by a short measurement.",
    )
    define(
        flags.DEFINE_enum,
        "verbose",
        "2",
        "Progress: 0 none, 1 a bar, 2 a line an epoch.",
        ["0", "1", "2"],
    )


@dataclasses.dataclass(frozen=True)
class Settings:
    """One training run.

    Attributes:
        model: A name in `presets.MODELS`.
        activation: The name of a Keras activation, or a tempered sigmoid.
        optimizer: A name in `presets.OPTIMIZERS`.
        batch_size: The expected batch size.
        epochs: Epochs.
        learning_rate: The learning rate.
        momentum: The momentum, `None` for optimizers that have none.
        l2_norm_clip: The clip norm.
        noise_multiplier: The noise multiplier, `None` if it follows from the budget.
        secure_noise: Whether noise comes from the secure source.
        target_epsilon: The budget, `None` for none beside a noise multiplier that was given.
        delta: The delta of the guarantee.
        accountant: `"rdp"` or `"pld"`.
        augmentation: A name in `presets.AUGMENTATIONS`.
        augmentation_multiplicity: Augmented views of each image.
        ema_decay: The decay of the averaged weights; `None`: there is no average.
        physical_batch_size: Examples in memory at a time, `None` for tfdp's choice.
        precision: A name in `PRECISIONS`.
        seed: The seed of the initial weights, or `None`.
        simulate_at: The batch size at which the run is simulated; `None`: it is private.
        static_batches: Whether batches have one shape and XLA compiles the step.
        screening: How updates are screened; `None`: they are not.
        random_access: Whether images are read from files when they are needed.
        image_size: The size that images are brought to; `None`: they stay as they are.
        features: What is trained on, a name in `train_features.FEATURES`.
        statistics: The private statistics that features are scaled by; `None`: there are none.
        activation_norms: Whether activations are measured after every epoch.
        activation_norms: Whether activations are measured.
        output_dir: The folder for the results.
        verbose: How `fit` reports progress.
    """

    model: str
    activation: str | tfdp.layers.TemperedSigmoid
    optimizer: str
    batch_size: int
    epochs: int
    learning_rate: float
    momentum: float | None
    l2_norm_clip: float
    noise_multiplier: float | None
    secure_noise: bool
    target_epsilon: float | None
    delta: float
    accountant: str
    augmentation: str
    augmentation_multiplicity: int
    ema_decay: float | None
    physical_batch_size: int | None
    precision: str
    seed: int | None
    simulate_at: int | None
    static_batches: bool
    screening: train_screening.Screening | None
    random_access: bool
    image_size: int | None
    features: str
    statistics: train_features.Statistics | None
    activation_norms: bool
    output_dir: str
    verbose: int


# What may differ when a run goes on: it changes cost or what is shown, not the result.
_FREE = ("physical_batch_size", "random_access", "output_dir", "verbose")
# What a record lacks that was written before there was a choice.
_ONCE = {"secure_noise": False, "activation_norms": False}


def take_from_simulation(values: flags.FlagValues) -> None:
    """Takes what `--from_simulation` found for flags that are not given.

    Raises:
        UsageError: If there are no results, or they are of another program.
    """
    folder = values.from_simulation
    if folder is None:
        return
    try:
        found = {}
        for name in (REFERENCE_FILE, "best.json"):
            path = os.path.join(folder, name)
            found |= read_files.json_object(path, parameters=dict[str, Any])["parameters"]
        for name, value in found.items():
            if not values[name].present:
                values[name].parse(str(value))
    except (OSError, KeyError, TypeError, ValueError, flags.Error) as error:
        raise UsageError(
            f"--from_simulation has no results of simulate.py: {read_files.short(error)}. "
            f"Received: from_simulation={folder!r}"
        ) from error


def hold_out(values: flags.FlagValues, data: image_datasets.ImageData) -> image_datasets.ImageData:
    """The data with the last training images in place of the test images, if that is asked for.

    Raises:
        UsageError: If no image would be left to train on.
    """
    if not values.validation_examples:
        return data
    rest, last = train_screening.split_off("validation_examples", values.validation_examples, data)
    return dataclasses.replace(rest, test=last)


def check_flags(values: flags.FlagValues) -> None:
    """Refuses flags that no data set could make right.

    Raises:
        UsageError: Naming the flag and the value received.
    """
    for name in ("target_epsilon", "learning_rate", "l2_norm_clip"):
        _require(values, name, "positive and finite", lambda value: 0 < value < float("inf"))
    counts = ("batch_size", "epochs", "physical_batch_size", "simulate_at", "image_size")
    for name in (*counts, "augmentation_multiplicity"):
        _require(values, name, "at least 1 and below 2**31", lambda value: 1 <= value < 2**31)
    _require(values, "validation_examples", "at least 0", lambda value: value >= 0)
    _require(values, "noise_multiplier", "at least 0 and finite", lambda v: 0 <= v < float("inf"))
    _require(values, "delta", "strictly between 0 and 1", lambda value: 0 < value < 1)
    for name in ("momentum", "ema_decay"):
        _require(values, name, "in [0, 1)", lambda value: 0 <= value < 1)
    _require(values, "seed", "in [0, 2**32)", lambda value: 0 <= value < 2**32)
    if values.momentum is not None and values.optimizer not in (None, "sgd"):
        raise UsageError(
            f"--momentum is for --optimizer=sgd. Received: optimizer={values.optimizer}"
        )
    if values.activation is not None:
        parse_activation(values.activation)
    if values.tpu is not None and values.strategy != "tpu":
        raise UsageError(f"--tpu is for --strategy=tpu. Received: strategy={values.strategy}")
    if values.secure_noise and values.strategy != "none":
        raise UsageError(f"--secure_noise is for one device. Received: strategy={values.strategy}")
    if values.secure_noise and values.noise_multiplier == 0:
        raise UsageError(
            f"--secure_noise needs noise. Received: noise_multiplier={values.noise_multiplier}"
        )
    _check_features(values)
    screening = train_screening.settle(values)
    if static_batches(values) and (random_access(values) or screening is not None):
        what = "--random_access" if random_access(values) else "--screening"
        raise UsageError(
            f"Batches of one shape, which a TPU needs, do not go with {what}. "
            f"Received: strategy={values.strategy}, static_batches={values.static_batches}"
        )
    if screening is not None and values.strategy == "multi_worker":
        raise UsageError(
            f"--screening decides in one process, on one host. Received: strategy={values.strategy}"
        )
    if screening is not None and values.simulate_at is not None:
        raise UsageError(
            "--screening cannot be simulated: its scores depend on the batch. "
            f"Received: simulate_at={values.simulate_at}"
        )
    if screening is not None and screening.rule == "noisy_threshold" and random_access(values):
        raise UsageError(
            "--screening=noisy_threshold scores training images in memory. "
            "Received: random_access=True"
        )


def _check_features(values: flags.FlagValues) -> None:
    """Refuses flags of features that do not go together."""
    _require(
        values, "statistics_noise_multiplier", "positive and finite", lambda v: 0 < v < math.inf
    )
    _require(values, "num_directions", "at least 1", lambda value: value >= 1)
    if values.features == "none":
        for name in ("feature_statistics", "num_directions", "statistics_noise_multiplier"):
            if getattr(values, name) not in (None, "none"):
                raise UsageError(f"--{name} is for --features. Received: features=none")
        return
    if values.statistics_noise_multiplier is not None and values.feature_statistics == "none":
        raise UsageError(
            "--statistics_noise_multiplier is for --feature_statistics. "
            "Received: feature_statistics=none"
        )
    if values.num_directions is not None and values.feature_statistics in ("none", "mean"):
        raise UsageError(
            "--num_directions is for --feature_statistics=directions. "
            f"Received: feature_statistics={values.feature_statistics}"
        )
    if random_access(values):
        raise UsageError("--features are of images in memory. Received: random_access=True")
    if values.strategy == "multi_worker" and values.feature_statistics != "none":
        raise UsageError(
            "Each worker would draw statistics of its own: with --features, several hosts need "
            f"--feature_statistics=none. Received: strategy={values.strategy}"
        )


def static_batches(values: flags.FlagValues) -> bool:
    """Whether batches have one shape."""
    return values.static_batches or values.strategy == "tpu"


def random_access(values: flags.FlagValues) -> bool:
    """Whether images are read from files when they are needed."""
    return bool(_of_recipe(values, "random_access"))


def image_size(values: flags.FlagValues) -> int | None:
    """The height and width that images are brought to; `None`: they stay as they are."""
    return _of_recipe(values, "image_size") if random_access(values) else values.image_size


def _of_recipe(values: flags.FlagValues, name: str):
    """What a flag says, or the preset that another flag names: for what the data depend on."""
    value = getattr(values, name)
    return getattr(RECIPES.get(values.preset), name, None) if value is None else value


def settle(values: flags.FlagValues, data: image_datasets.ImageData) -> Settings:
    """Completes checked flags by the preset of the data.

    Raises:
        UsageError: If the flags do not fit the data.
    """
    preset = (
        preset_for(data.name, data.image_shape, values.features)
        if values.preset is None
        else RECIPES[values.preset]
    )

    def given(name: str):
        value = getattr(values, name)
        return getattr(preset, name) if value is None else value

    examples = len(data.train)
    delta, batch_size = given("delta"), given("batch_size")
    if delta > 1 / examples:
        raise UsageError(
            f"--delta must be at most 1 / {examples}, the number of training examples: a larger "
            f"one allows publishing an example outright. Received: delta={delta}"
        )
    if batch_size > examples:
        raise UsageError(
            f"--batch_size must be at most {examples}, the number of training examples. "
            f"Received: batch_size={batch_size}"
        )
    if values.simulate_at is not None and values.simulate_at > batch_size:
        raise UsageError(
            f"--simulate_at must be at most {batch_size}, the batch size. "
            f"Received: simulate_at={values.simulate_at}"
        )
    if given("augmentation") == "none" and given("augmentation_multiplicity") > 1:
        raise UsageError(
            "--augmentation_multiplicity needs an --augmentation. Received: "
            f"augmentation_multiplicity={given('augmentation_multiplicity')}"
        )
    model, activation = given("model"), given("activation")
    if activation != ACTIVATIONS.get(model, activation):
        raise UsageError(
            f"--model={model} needs {ACTIVATIONS[model]}. Received: activation={activation}"
        )
    if values.features != "none" and given("augmentation") != "none":
        raise UsageError(
            "--augmentation is of images, and does not go with --features. "
            f"Received: augmentation={given('augmentation')}"
        )
    optimizer = given("optimizer")
    return Settings(
        model=model,
        activation=parse_activation(activation),
        optimizer=optimizer,
        batch_size=batch_size,
        epochs=given("epochs"),
        learning_rate=given("learning_rate"),
        momentum=given("momentum") if optimizer == "sgd" else None,
        l2_norm_clip=given("l2_norm_clip"),
        noise_multiplier=values.noise_multiplier,
        secure_noise=values.secure_noise,
        target_epsilon=(
            given("target_epsilon") if values.noise_multiplier is None else values.target_epsilon
        ),
        delta=delta,
        accountant=values.accountant,
        augmentation=given("augmentation"),
        augmentation_multiplicity=given("augmentation_multiplicity"),
        ema_decay=given("ema_decay") or None,
        physical_batch_size=values.physical_batch_size,
        precision=values.precision,
        seed=values.seed,
        simulate_at=values.simulate_at,
        static_batches=static_batches(values),
        screening=train_screening.settle(values),
        random_access=random_access(values),
        image_size=image_size(values),
        features=values.features,
        statistics=_statistics(values, given, data),
        activation_norms=values.activation_norms,
        output_dir=output_dir(values),
        verbose=int(values.verbose),
    )


def _statistics(
    values: flags.FlagValues, given: Callable[[str], Any], data: image_datasets.ImageData
) -> train_features.Statistics | None:
    """The private statistics that features are scaled by; `None` for none."""
    kind = given("feature_statistics") if values.features != "none" else "none"
    if kind == "none":
        return None
    directions = given("num_directions") if kind == "directions" else 0
    size = math.prod(data.image_shape)
    if directions > size:
        raise UsageError(
            f"--num_directions must be at most {size}, the number of features. "
            f"Received: num_directions={directions}"
        )
    noise_multiplier = given("statistics_noise_multiplier")
    return train_features.Statistics(kind, noise_multiplier, directions)


def to_repeat(
    settings: Settings, data: image_datasets.ImageData, noise_multiplier: float
) -> dict[str, str | float | None]:
    """What a run that goes on must have in common with the one before, by flag.

    Args:
        settings: The settings.
        data: The data.
        noise_multiplier: That of the settings, or the one calibrated to their budget.
    """
    values = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if field.name not in _FREE
    }
    values["activation"] = activation_text(settings.activation)
    screening = values.pop("screening")
    values |= {"screening": "none"} if screening is None else dataclasses.asdict(screening)
    statistics = values.pop("statistics")
    values |= (
        {"feature_statistics": "none"} if statistics is None else dataclasses.asdict(statistics)
    )
    # Last, because it may follow from others: these are named first where they differ.
    del values["noise_multiplier"]
    return {
        "dataset": f"{data.name} ({len(data.train)} training examples)",
        **values,
        "noise_multiplier": noise_multiplier,
    }


def recorded(
    record: dict[str, str | float | None], *, physical_batch_size: int | None, verbose: int
) -> Settings:
    """The settings of a run that was recorded, with the noise that it had.

    Args:
        record: What `to_repeat` made of them.
        physical_batch_size: Examples in memory at a time, which the record leaves open.
        verbose: How `fit` reports progress.

    Raises:
        KeyError: If the record lacks a setting.
        TypeError: If a setting is of another type.
        ValueError: If the activation is unknown.
    """
    record = _ONCE | record
    made = (*_FREE, "activation", "screening", "statistics")
    fields = [field.name for field in dataclasses.fields(Settings) if field.name not in made]
    if not isinstance(record["activation"], str):
        raise TypeError("'activation' must be text")
    settings = {
        **{name: record[name] for name in fields},
        "activation": parse_activation(record["activation"]),
        "screening": train_screening.recorded(record),
        "statistics": train_features.recorded(record),
        "physical_batch_size": physical_batch_size,
        "random_access": record["image_size"] is not None,
        "output_dir": "",
        "verbose": verbose,
    }
    return read_files.as_dataclass(Settings, settings)


def refuse_other(before: dict[str, str | float | None], now: dict[str, str | float | None]) -> None:
    """Refuses to go on with a run of other settings, both as of `to_repeat`.

    Raises:
        UsageError: Naming the first flag that differs and both values.
    """
    before = _ONCE | before
    for name, value in now.items():
        if before.get(name) != value:
            raise UsageError(
                "--resume goes on with the settings of the run in --output_dir, which has "
                f"--{name}={before.get(name)}. Received: {name}={value}"
            )


def output_dir(values: flags.FlagValues) -> str:
    """The folder that the results go to."""
    return values.output_dir or os.path.join("runs", values.dataset.replace(os.sep, "_"))


def prepare_output_dir(folder: str) -> None:
    """Makes the folder for the results, and tries whether files can be written to it.

    Raises:
        UsageError: If not.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(
            f"Nothing can be written to --output_dir: {error.strerror}. "
            f"Received: output_dir={folder!r}"
        ) from error


def parse_activation(text: str) -> str | tfdp.layers.TemperedSigmoid:
    """Reads the name of a Keras activation or a tempered sigmoid with its parameters.

    Raises:
        UsageError: If it is neither.
    """
    match = re.fullmatch(r"\s*tempered_sigmoid\s*(?:\((.*)\))?\s*", text)
    try:
        if match is None:
            keras.activations.get(text)
            return text
        if match[1] is None:
            return tfdp.layers.TemperedSigmoid()
        scale, temperature, offset = (float(number) for number in match[1].split(","))
        return tfdp.layers.TemperedSigmoid(scale, temperature, offset)
    except ValueError as error:
        raise UsageError(
            "--activation must be the name of a Keras activation, tempered_sigmoid, or "
            "tempered_sigmoid(SCALE,TEMPERATURE,OFFSET) with a positive scale and temperature. "
            f"Received: activation={text!r}"
        ) from error


def activation_text(activation: str | tfdp.layers.TemperedSigmoid) -> str:
    """An activation as `--activation` takes it."""
    if isinstance(activation, str):
        return activation
    numbers = (activation.scale, activation.temperature, activation.offset)
    return "tempered_sigmoid({:g},{:g},{:g})".format(*numbers)


def _require(values: flags.FlagValues, name: str, what: str, holds) -> None:
    value = getattr(values, name)
    if value is not None and not holds(value):
        raise UsageError(f"--{name} must be {what}. Received: {name}={value}")
