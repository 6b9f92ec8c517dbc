"""The results of `train.py`: a record, the privacy statement and a picture."""

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import statistics
from typing import Any

import keras
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

import tfdp
from tfdp.scripts import read_files, train_activations, train_settings, whole_files
from tfdp.scripts.command_line import UsageError
from tfdp.scripts.image_datasets import ImageData
from tfdp.scripts.train_checkpoint import Run
from tfdp.scripts.train_settings import Settings

MODEL_FILE = "model.keras"
SIMULATED_MODEL_FILE = "simulated_not_private.keras"
RECORD_FILE = "result.json"
PICTURE_FILE = "history.png"
STATEMENT_FILE = "privacy_statement"


@dataclasses.dataclass(frozen=True)
class Report:
    """What `result.json` holds. An epsilon of `null` means that there is no guarantee."""

    dataset: str
    train_examples: int
    test_examples: int
    model: str
    parameters: int
    activation: str
    test_accuracy: float
    test_loss: float
    epsilon: dict[str, float | None]
    target_epsilon: float | None
    delta: float
    accountant: str
    noise_multiplier: float
    l2_norm_clip: float
    sampling_probability: float
    expected_batch_size: int
    physical_batch_size: int | None
    epochs: int
    steps: int
    optimizer: str
    learning_rate: float
    momentum: float | None
    seed: int | None
    seconds: float
    examples_per_second: float
    history: dict[str, list[float | None]]
    versions: dict[str, str]
    command: str
    settings: dict[str, Any]


def make(
    *,
    settings: Settings,
    data: ImageData,
    batches: tfdp.sampling.PoissonDataset,
    noise_multiplier: float,
    private: tfdp.PrivateModel,
    model_file: str,
    run: Run,
    command: str,
) -> Report:
    """Puts together the record of a run; evaluates the released file on the test data.

    The speed is the median over epochs: it does not see those in which TensorFlow traces the
    step, unless there are no others.
    """
    released = keras.saving.load_model(model_file)
    released.compile(loss=private.loss, metrics=["accuracy"])
    test_loss, test_accuracy = released.evaluate(data.test.batches(), verbose=0)
    steps_per_second = statistics.median_high(run.column("steps_per_second"))
    return Report(
        dataset=data.name,
        train_examples=len(data.train),
        test_examples=len(data.test),
        model=settings.model,
        parameters=released.count_params(),
        activation=train_settings.activation_text(settings.activation),
        test_accuracy=float(test_accuracy),
        test_loss=float(test_loss),
        epsilon=_epsilons(private.ledger, settings.delta),
        target_epsilon=settings.target_epsilon,
        delta=settings.delta,
        accountant=settings.accountant,
        noise_multiplier=noise_multiplier,
        l2_norm_clip=settings.l2_norm_clip,
        sampling_probability=batches.sampling_probability,
        expected_batch_size=batches.expected_batch_size,
        physical_batch_size=settings.physical_batch_size,
        epochs=len(run.epochs),
        steps=sum(
            release.count
            for release in private.ledger.releases
            if release.description == "DP-SGD training"
        ),
        optimizer=settings.optimizer,
        learning_rate=settings.learning_rate,
        momentum=settings.momentum,
        seed=settings.seed,
        seconds=round(sum(run.column("seconds")), 2),
        examples_per_second=round(steps_per_second * batches.expected_batch_size, 1),
        history={
            "test_accuracy": run.column("val_accuracy"),
            "epsilon": [_finite(value) for value in run.column("epsilon")],
            **({} if settings.screening is None else _screening_history(run)),
            **_activation_history(run),
        },
        versions={
            "python": platform.python_version(),
            "tfdp": tfdp.__version__,
            **{
                name: importlib.metadata.version(name)
                for name in ("tensorflow", "keras", "dp-accounting", "numpy")
            },
        },
        command=command,
        settings=run.settings,
    )


def _epsilons(ledger: tfdp.accounting.PrivacyLedger, delta: float) -> dict[str, float | None]:
    """Epsilon by each accountant; `None` where nothing is guaranteed."""
    if ledger.not_private_reasons:
        return {"rdp": None, "pld": None}
    return {name: _finite(ledger.epsilon(delta, name)) for name in ("rdp", "pld")}


def _screening_history(run: Run) -> dict[str, list[float]]:
    return {name: run.column(name) for name in ("trials", "acceptance_rate")}


def _activation_history(run: Run) -> dict[str, list[float]]:
    """What was measured of the activations, if they were."""
    names = [name for name in run.epochs[0] if name.startswith(train_activations.METRIC)]
    return {name.removeprefix("val_"): run.column(name) for name in names}


def model_file(folder: str, *, simulated: bool) -> str:
    """Where the model of a run is; one that is not private says so in its name."""
    return os.path.join(folder, SIMULATED_MODEL_FILE if simulated else MODEL_FILE)


def write(report: Report, statement: Any, folder: str) -> None:
    """Writes the record, the privacy statement as text and as JSON, and the picture."""

    def put(name: str, text: str) -> None:
        with (
            whole_files.replacing(os.path.join(folder, name)) as path,
            open(path, "w", encoding="utf-8") as file,
        ):
            file.write(text.rstrip("\n") + "\n")

    put(f"{STATEMENT_FILE}.txt", str(statement))
    put(f"{STATEMENT_FILE}.json", statement.to_json())
    with whole_files.replacing(os.path.join(folder, PICTURE_FILE)) as path:
        picture(report).savefig(path, dpi=150)
    put(RECORD_FILE, json.dumps(dataclasses.asdict(report), indent=2, allow_nan=False))


def read(folder: str) -> Report | None:
    """The record of the finished run in a folder; `None` if there is none.

    Raises:
        UsageError: If there is a file of its name that is something else.
    """
    path = os.path.join(folder, RECORD_FILE)
    if not os.path.exists(path):
        return None
    try:
        return read_files.as_dataclass(Report, read_files.json_object(path))
    except (TypeError, UsageError) as error:
        raise UsageError(
            f"{path!r} is no record of this version of the program. Start over without --resume, "
            f"or with another --output_dir. Received: output_dir={folder!r}"
        ) from error


def summary(report: Report, folder: str) -> str:
    """The lines that the program ends with."""
    simulated = report.settings["simulate_at"] is not None
    epsilon = ", ".join(
        f"{'none' if value is None else format(value, '.3f')} ({name.upper()})"
        for name, value in report.epsilon.items()
    )
    return "\n".join(
        [
            "",
            f"test accuracy  {report.test_accuracy:.2%} ({report.test_examples:,} images)",
            f"epsilon        {epsilon} at delta = {report.delta:g}",
            f"model          {model_file(folder, simulated=simulated)}",
            f"statement      {os.path.join(folder, STATEMENT_FILE)}.txt",
            f"all results    {folder}",
        ]
    )


def picture(report: Report) -> Figure:
    """Test accuracy, epsilon, and activations if they were measured, by epoch, side by side."""
    accuracy, spent = report.history["test_accuracy"], report.history["epsilon"]
    norms = [name for name in report.history if name.startswith("activation_norm_")]
    epochs = np.arange(1, len(accuracy) + 1)
    count = 3 if norms else 2
    figure = Figure(figsize=(4.5 * count, 3.6), layout="constrained")
    places = figure.subplots(1, count)
    left, right = places[:2]

    left.plot(epochs, accuracy, color="tab:blue", linewidth=2, marker=".")
    left.annotate(
        f"{accuracy[-1]:.1%}",
        (epochs[-1], accuracy[-1]),
        xytext=(0, 6),
        textcoords="offset points",
        ha="right",
        color="tab:blue",
    )
    left.set(title="Test accuracy", ylim=(0, 1.05))
    left.yaxis.set_major_formatter(PercentFormatter(xmax=1))

    right.plot(
        epochs,
        [math.nan if e is None else e for e in spent],
        color="tab:red",
        linewidth=2,
        marker=".",
    )
    if report.target_epsilon is not None:
        right.axhline(report.target_epsilon, color="0.4", linestyle="--", linewidth=1)
        right.annotate(
            f"budget {report.target_epsilon:g}",
            (epochs[0], report.target_epsilon),
            xytext=(0, -4),
            textcoords="offset points",
            va="top",
            color="0.4",
        )
    right.set(title=f"Epsilon spent ({report.accountant.upper()}, delta = {report.delta:g})")
    right.set_ylim(bottom=0)

    for number, name in enumerate(norms, 1):
        places[2].plot(epochs, report.history[name], label=f"activation {number}", marker=".")
    if norms:
        places[2].set(title="Mean norm of activations, test images", yscale="log")
        places[2].legend()

    for axes in places:
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        tidy(axes)
    figure.suptitle(f"{report.dataset}: {report.model} with {report.activation}")
    return figure


def tidy(axes: Axes) -> None:
    """The look of all pictures of a run."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
