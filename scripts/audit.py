"""Audits a model that `train.py` trained: what does it tell of its training images?

    python scripts/audit.py --from_training=runs/digits
    python scripts/audit.py --from_training=runs/digits --canaries=300
    tfdp-audit --from_training=runs/mnist --canaries=5000 --canary=gradient

Attacks the released model: guesses from the loss of each image whether it was trained on, and
compares training with test images.

`--canaries` repeats the training, with the settings in its record and new noise, on data to which
each canary is added by a fair coin, and bounds epsilon from below by guessing the coins. A canary
is a test image with a wrong class (`mislabelled`), an image of noise (`noise`), or a gradient
(`gradient`), which sees every update and shows the most. A bound above what the repeated run
claims is a mistake in the training; one below it proves nothing.

`--output_dir` gets `audit.json` and `audit.png`. They tell of the training images without
protection: keep them as you keep the images.
"""

import dataclasses
import functools
import json
import os
import shlex
import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from absl import flags
from matplotlib.figure import Figure

import tfdp
from tfdp.scripts import (
    command_line,
    image_datasets,
    read_files,
    train,
    train_report,
    train_settings,
    whole_files,
)
from tfdp.scripts.command_line import UsageError
from tfdp.scripts.image_datasets import ImageData
from tfdp.scripts.images import ArrayImages, Images
from tfdp.scripts.train_report import Report
from tfdp.scripts.train_settings import Settings

CANARIES = ("mislabelled", "noise", "gradient")
RECORD_FILE = "audit.json"
PICTURE_FILE = "audit.png"
NOT_PROTECTED = "not protected by privacy: do not publish"
_BATCH = 4096


def declare_flags(values: flags.FlagValues) -> None:
    """Defines the flags of this program on `values`."""

    def define(kind, name, default, text, *args):
        kind(name, default, *args, help=text, flag_values=values)

    define(flags.DEFINE_string, "from_training", "runs/digits", "Folder of results of train.py.")
    image_datasets.declare_flags(values)
    define(
        flags.DEFINE_integer,
        "canaries",
        0,
        "Repeat the training with so many canaries, of which about half are added. 0: do not.",
    )
    define(flags.DEFINE_enum, "canary", "mislabelled", "What a canary is.", list(CANARIES))
    define(flags.DEFINE_float, "confidence", 0.95, "Confidence of the lower bound on epsilon.")
    define(
        flags.DEFINE_string, "output_dir", None, "Folder for the audit. Defaults to the training's."
    )
    define(
        flags.DEFINE_enum,
        "verbose",
        "2",
        "Progress of training: 0 none, 1 a bar, 2 a line an epoch.",
        ["0", "1", "2"],
    )


@dataclasses.dataclass(frozen=True)
class Audit:
    """What was found.

    Attributes:
        membership: Of the attack on the released model.
        one_run: Of the repeated training; `None` without canaries.
    """

    membership: tfdp.auditing.MembershipAttack
    one_run: tfdp.auditing.OneRunAudit | None

    def __str__(self) -> str:
        return "\n".join(str(part) for part in self.parts)

    @property
    def parts(self) -> list:
        """What was made of it."""
        return [part for part in (self.membership, self.one_run) if part is not None]

    def picture(self) -> Figure:
        """The pictures of all parts, one below the other."""
        figure = Figure(figsize=(9, 3.6 * len(self.parts)), layout="constrained")
        for part, place in zip(
            self.parts, figure.subfigures(len(self.parts), 1, squeeze=False)[:, 0], strict=True
        ):
            part.draw(place)
        return figure


def audit(values: flags.FlagValues) -> Audit:
    """Audits as the flags say, and writes and prints what was found.

    Raises:
        UsageError: Before any training, naming the flag and the value received.
    """
    _check_flags(values)
    report = _report(values.from_training)
    folder = values.output_dir or values.from_training
    train_settings.prepare_output_dir(folder)
    data = _data(values, report)
    repeat = _repeated_training(values, report, data) if values.canaries else None
    found = Audit(
        membership=_attack(_released(values.from_training, report), data),
        one_run=None if repeat is None else repeat(),
    )
    record = {
        "note": NOT_PROTECTED,
        "from_training": values.from_training,
        "epsilon": report.epsilon,
        "delta": report.delta,
        "membership": found.membership.to_dict(),
        "canary": values.canary if values.canaries else None,
        "one_run": None if found.one_run is None else found.one_run.to_dict(),
        "command": shlex.join(sys.argv),
    }
    path = os.path.join(folder, RECORD_FILE)
    with whole_files.replacing(path) as partial, open(partial, "w", encoding="utf-8") as file:
        json.dump(record, file, indent=2, allow_nan=False)
    with whole_files.replacing(os.path.join(folder, PICTURE_FILE)) as partial:
        found.picture().savefig(partial, dpi=150)
    print(found, f"\nall results: {path} ({NOT_PROTECTED})", sep="\n")
    return found


def _check_flags(values: flags.FlagValues) -> None:
    if values.canaries < 0 or values.canaries == 1:
        raise UsageError(
            f"--canaries must be 0, or at least 2. Received: canaries={values.canaries}"
        )
    if not 0 < values.confidence < 1:
        raise UsageError(
            "--confidence must be strictly between 0 and 1. "
            f"Received: confidence={values.confidence}"
        )


def _report(folder: str) -> Report:
    """The record of the training that is audited."""
    try:
        report = train_report.read(folder)
        if report is not None:  # Now, and not where a setting is asked for.
            train_settings.recorded(report.settings, physical_batch_size=None, verbose=0)
    except (LookupError, TypeError, UsageError) as error:
        raise UsageError(
            "--from_training holds a record that is none of this version of train.py. "
            f"Received: from_training={folder!r}"
        ) from error
    if report is None:
        raise UsageError(
            f"--from_training holds no {train_report.RECORD_FILE} of train.py. "
            f"Received: from_training={folder!r}"
        )
    return report


def _data(values: flags.FlagValues, report: Report) -> ImageData:
    """The images that were trained on, and the test images."""
    size = report.settings["image_size"]
    data = image_datasets.load(
        report.dataset,
        data_dir=values.data_dir,
        download=values.download,
        random_access=size is not None,
        image_size=size,
    )
    if report.train_examples > len(data.train):
        raise UsageError(
            f"The training in --from_training had {report.train_examples} images, the data set "
            f"{report.dataset!r} has {len(data.train)}. "
            f"Received: from_training={values.from_training!r}"
        )
    members, _ = data.train.split(report.train_examples)  # Those held out were the last ones.
    return dataclasses.replace(data, train=members)


def _released(folder: str, report: Report) -> keras.Model:
    path = train_report.model_file(folder, simulated=report.settings["simulate_at"] is not None)
    try:
        return read_files.model(path)
    except UsageError as error:
        raise UsageError(
            f"The model {path!r} cannot be loaded: {error.__cause__}. "
            f"Received: from_training={folder!r}"
        ) from error


def _attack(model: keras.Model, data: ImageData) -> tfdp.auditing.MembershipAttack:
    members, others = (_losses(model, images) for images in (data.train, data.test))
    return tfdp.auditing.membership_attack(
        members[0], others[0], member_labels=members[1], other_labels=others[1]
    )


def _losses(model: keras.Model, images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Losses and classes, of images that may not fit into memory."""
    parts = [
        (tfdp.auditing.example_losses(model, x.numpy(), y.numpy()), y.numpy())
        for x, y in images.batches().rebatch(_BATCH)
    ]
    losses, labels = zip(*parts, strict=True)
    return np.concatenate(losses), np.concatenate(labels)


def _repeated_training(values: flags.FlagValues, report: Report, data: ImageData) -> Any:
    """A function that repeats the training with canaries, if that can be done."""
    settings = train_settings.recorded(
        report.settings,
        physical_batch_size=report.physical_batch_size,
        verbose=int(values.verbose),
    )
    if not isinstance(data.train, ArrayImages):
        raise UsageError("Canaries are added to images in memory. Received: image_size in the run")
    if settings.features != "none":
        raise UsageError(
            "A training with --features is not repeated with canaries. "
            f"Received: canaries={values.canaries}"
        )
    for name in ("simulate_at", "screening"):
        if getattr(settings, name) is not None:
            raise UsageError(
                f"A training with --{name} is not repeated with canaries. "
                f"Received: canaries={values.canaries}"
            )
    with_canaries = _with_gradients if values.canary == "gradient" else _with_images
    try:
        return with_canaries(values, report, settings, data)
    except UsageError:
        raise
    except (LookupError, TypeError, ValueError) as error:
        raise UsageError(
            f"--from_training has settings that nothing can be trained with: {error}. "
            f"Received: from_training={values.from_training!r}"
        ) from error


def _with_gradients(
    values: flags.FlagValues, report: Report, settings: Settings, data: ImageData
) -> Any:
    if settings.static_batches:
        raise UsageError(
            "--canary=gradient does not go with a training in --static_batches. "
            f"Received: canary={values.canary}"
        )

    make = functools.partial(
        tfdp.auditing.AuditedModel, canaries=values.canaries, direction="single_weights"
    )

    try:
        audited = _untrained(report, settings, data, make)
    except ValueError as error:
        raise UsageError(f"--canary=gradient does not work: {error}") from error

    def run() -> tfdp.auditing.OneRunAudit:
        _fit(audited, report, settings, data)
        return audited.audit(
            settings.delta, confidence=values.confidence, accountant=settings.accountant
        )

    return run


def _with_images(
    values: flags.FlagValues, report: Report, settings: Settings, data: ImageData
) -> Any:
    if values.canary == "noise":
        canaries = tfdp.auditing.random_canaries(
            data.image_shape, values.canaries, data.num_classes
        )
    else:
        if values.canaries > len(data.test):
            raise UsageError(
                f"--canaries must be at most {len(data.test)}, the test images, for "
                f"--canary=mislabelled. Received: canaries={values.canaries}"
            )
        canaries = tfdp.auditing.mislabelled_canaries(
            *data.test.arrays(), values.canaries, data.num_classes
        )
    joined = dataclasses.replace(data, train=ArrayImages(*canaries.insert(*data.train.arrays())))

    def run() -> tfdp.auditing.OneRunAudit:
        private = _untrained(report, settings, joined)
        before = canaries.scores(private.model)
        _fit(private, report, settings, joined)
        return tfdp.auditing.one_run_audit(
            canaries.scores(private.model) - before,
            canaries.included,
            delta=settings.delta,
            confidence=values.confidence,
            claimed_epsilon=private.ledger.epsilon(settings.delta, settings.accountant),
        )

    return run


def _untrained(report: Report, settings: Settings, data: ImageData, *make_private: Any) -> Any:
    strategy = tf.distribute.get_strategy()
    return train.private_model(settings, data, report.noise_multiplier, strategy, *make_private)


def _fit(private: tfdp.PrivateModel, report: Report, settings: Settings, data: ImageData) -> None:
    """Trains as it was recorded, on other data."""
    batches = train.batches_of(settings, data, 1, settings.batch_size)
    private.fit(batches, epochs=report.epochs, verbose=settings.verbose)
    if settings.ema_decay is not None:
        private.optimizer.finalize_variable_values(private.trainable_variables)


def main() -> None:
    """Runs the program; the `tfdp-audit` command."""
    command_line.run(__doc__, declare_flags, audit)


if __name__ == "__main__":
    main()
