"""What `reproduce.py` can run: the settings of every row of every table, as flags of `train.py`."""

import dataclasses
from typing import Any

Flags = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table: the same training, once for each seed.

    Attributes:
        name: Names its folder.
        label: What the table says.
        flags: Flags of `train.py`.
        published: The figure that it is compared with, in percent. Defaults to `None`.
    """

    name: str
    label: str
    flags: Flags
    published: str | None = None


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Rows that are compared.

    Attributes:
        question: What it answers.
        rows: The rows by the title of their table.
        quick: Flags that make it a matter of seconds, to see that it works.
    """

    question: str
    rows: dict[str, tuple[Row, ...]]
    quick: Flags


_TITLES = {"mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
_QUICK = {"dataset": "digits", "epochs": 2, "batch_size": 256, "learning_rate": 1.0}

# Update screening. One network, clip norm, batch size, number of trials and true budget for all:
# epsilon 3 at delta 1e-5, by RDP, with every trial and every score charged. What differs was tuned
# by `screening_tuning`, with as many runs for each method.
_SCREENING = {
    "target_epsilon": 3.0,
    "delta": 1e-5,
    "batch_size": 2048,
    "epochs": 15,
    "l2_norm_clip": 0.1,
}
_ANNEALING = {"screening": "annealing"}
_THRESHOLD = {"screening": "noisy_threshold"}


def _tuned(name: str, label: str, **flags: Any) -> Row:
    return Row(name, label, flags)


def _tuning_rows(dataset: str) -> tuple[Row, ...]:
    candidates = [
        _tuned(f"plain_{rate}", f"plain, rate {rate}", learning_rate=rate) for rate in (2, 4, 8, 16)
    ]
    for rate, factor in ((4, 10), (8, 10), (16, 10), (8, 1)):
        candidates.append(
            _tuned(
                f"annealing_{rate}_{factor}",
                f"annealing, rate {rate}, k = {factor}",
                learning_rate=rate,
                temperature_factor=factor,
                **_ANNEALING,
            )
        )
    for rate, difference in ((4, "mean"), (8, "mean"), (4, "examples"), (8, "examples")):
        clip, threshold = (0.001, -1.0) if difference == "mean" else (0.1, 0.0)
        candidates.append(
            _tuned(
                f"threshold_{difference}_{rate}",
                f"noisy threshold, {difference}, rate {rate}",
                learning_rate=rate,
                score_difference=difference,
                score_clip=clip,
                score_threshold=threshold,
                score_noise_multiplier=1.0,
                **_THRESHOLD,
            )
        )
    return tuple(
        dataclasses.replace(row, flags={"dataset": dataset, **_SCREENING, **row.flags})
        for row in candidates
    )


EXPERIMENTS = {
    "screening_tuning": Experiment(
        "Which settings suit each way of screening, found with as many runs for each?",
        {title: _tuning_rows(dataset) for dataset, title in _TITLES.items()},
        _QUICK,
    ),
}
