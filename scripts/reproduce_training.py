"""What `reproduce.py` says about trainings by `train.py`: accuracy, and what it has cost."""

import statistics
from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure

import tfdp
from tfdp.scripts import reproduce_layout as layout
from tfdp.scripts import train_accounting, train_features, train_screening
from tfdp.scripts.experiments import Experiment, Row

Record = dict[str, Any]


def one_line(record: Record) -> str:
    """What came of one training."""
    return f"{100 * record['test_accuracy']:.2f} % after {record['seconds']:.0f} s"


def result_of(row: Row, records: list[Record]) -> Record:
    """Mean and spread over the seeds of a row."""
    accuracies = [100 * record["test_accuracy"] for record in records]
    mean, stddev = layout.mean_and_stddev(accuracies)
    not_private = _not_private(records[0])
    return {
        "name": row.name,
        "label": row.label,
        "published": row.published,
        "x": row.x,
        "series": row.series,
        "accuracies": accuracies,
        "mean": mean,
        "stddev": stddev,
        "not_private": not_private,
        "epsilon": None if not_private else statistics.mean(map(_true_epsilon, records)),
        "guaranteed": all(record["epsilon"]["rdp"] is not None for record in records),
        "steps": statistics.mean(_trials(record) for record in records),
        "kept": statistics.mean(
            record["history"].get("acceptance_rate", [1.0])[-1] for record in records
        ),
        "examples": statistics.mean(_examples(record) for record in records),
        "epsilon_pld": records[0]["epsilon"]["pld"],
        "activation_norms": {
            name: [record["history"][name] for record in records]
            for name in records[0]["history"]
            if name.startswith("activation_norm_")
        },
        "seconds": sum(record["seconds"] for record in records),
        "flags": row.flags,
    }


def table(experiment: Experiment, results: dict[str, list[Record]]) -> str:
    """The results in Markdown."""
    lines = [experiment.question, ""]
    screened = any("screening" in r["flags"] for found in results.values() for r in found)
    columns = {name: cell for name, cell in _COLUMNS.items() if screened or name not in _SCREENED}
    for title, found in results.items():
        rows = [[cell(r) for cell in columns.values()] for r in found]
        lines += layout.table(title, list(columns), rows)
    return "\n".join(lines)


def pictures(experiment: Experiment, results: dict[str, list[Record]]) -> dict[str, Figure]:
    """The pictures, by the names of their files: of accuracies, and of activations if measured."""
    drawn = {"results.png": _draw(experiment, results)}
    measured = {
        title: [r for r in found if r["activation_norms"]] for title, found in results.items()
    }
    measured = {title: found for title, found in measured.items() if found}
    if measured:
        drawn["activations.png"] = _draw_activations(measured)
    return drawn


def _draw_activations(results: dict[str, list[Record]]) -> Figure:
    """How the outputs of the first activation grow while a network trains, a line a row."""
    figure = Figure(figsize=(6 * len(results), 4), layout="constrained")
    for axes, (title, found) in zip(
        figure.subplots(1, len(results), squeeze=False)[0], results.items(), strict=True
    ):
        for number, r in enumerate(found):
            for norms in r["activation_norms"]["activation_norm_0"]:
                epochs = range(1, len(norms) + 1)
                label = (
                    r["label"] if norms is r["activation_norms"]["activation_norm_0"][0] else None
                )
                axes.plot(epochs, norms, color=f"C{number}", alpha=0.7, label=label)
        axes.set(title=title, xlabel="epoch", ylabel="norm of the first activation, test images")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def _draw(experiment: Experiment, results: dict[str, list[Record]]) -> Figure:
    """Accuracy by row, or over the setting that rows differ in."""
    curves = all(r["x"] is not None for found in results.values() for r in found)
    rows = max(len(found) for found in results.values())
    height = 4 if curves else 1.2 + 0.45 * rows
    across = len(results) if len(results) <= 3 else 2
    down = -(-len(results) // across)
    figure = Figure(figsize=(6 * across, down * height), layout="constrained")
    places = figure.subplots(down, across, squeeze=False).ravel()
    for axes in places[len(results) :]:
        axes.set_axis_off()
    for axes, (title, found) in zip(places, results.items(), strict=False):
        axes.set_title(title)
        if curves:
            by_series: dict[str, dict[float, list[float]]] = {}
            for r in found:
                by_series.setdefault(r["series"], {})[r["x"]] = r["accuracies"]
            layout.draw_curves(axes, by_series)
            axes.set(xlabel=experiment.axis, ylabel="accuracy, %")
            continue
        labels = [f"{r['label']}\n{_in_short(r)}" for r in found]
        colors = [_color(r) for r in found]
        layout.draw_rows(axes, labels, [r["accuracies"] for r in found], colors)
        told = [meaning for color, meaning in _MEANINGS.items() if color in colors]
        axes.set_xlabel("\n".join(["test accuracy, %", *told]))
    return figure


_OVERSPENT, _NOT_PRIVATE = "C3", "0.5"
_MEANINGS = {
    _OVERSPENT: "red: more was spent than was charged",
    _NOT_PRIVATE: "grey: not private",
}


def _color(result: Record) -> str:
    if result["not_private"]:
        return _NOT_PRIVATE
    return "C0" if result["guaranteed"] else _OVERSPENT


def _in_short(result: Record) -> str:
    """Why there is no epsilon, or epsilon by the accountant that the noise was found with."""
    if result["not_private"]:
        return result["not_private"]
    if result["flags"].get("accountant") == "pld":
        return f"ε {result['epsilon_pld']:.2f} by PLD"
    return f"true ε {result['epsilon']:.2f}"


def _trials(record: Record) -> int:
    """Updates that were worked out, whether kept or not."""
    if record["settings"].get("charge") == "accepted":
        return int(record["history"]["trials"][-1])
    return record["steps"]


def _examples(record: Record) -> int:
    """Examples that were worked on, each view of one counted, as far as expected."""
    views = record["settings"]["augmentation_multiplicity"]
    return _trials(record) * record["expected_batch_size"] * views


def _true_epsilon(record: Record) -> float:
    """Epsilon, by RDP, of everything that was worked out, whatever was charged for it."""
    steps = _trials(record)
    beside = train_accounting.beside_steps(
        train_screening.recorded(record["settings"]),
        train_features.recorded(record["settings"]),
        record["train_examples"],
        steps,
    )
    step = tfdp.accounting.dp_sgd_event(record["noise_multiplier"], record["sampling_probability"])
    return train_accounting.ledger_of(step, steps, beside).epsilon(record["delta"])


def _not_private(record: Record) -> str | None:
    """Why a run has no epsilon at all; `None` if it has one."""
    if record["settings"]["simulate_at"] is not None:
        return "simulated"
    return None if record["noise_multiplier"] else "no noise"


def _spent(result: Record) -> str:
    """Epsilon, and what is wrong with it."""
    if result["not_private"]:
        return f"{result['not_private']}: not private"
    return f"{result['epsilon']:.2f}" + ("" if result["guaranteed"] else " (charged less)")


#: Columns of the table by what they are called, and what is in them.
_COLUMNS: dict[str, Callable[[Record], str]] = {
    "": lambda r: r["label"],
    "test accuracy, %": lambda r: layout.spread(r["accuracies"]),
    "by seed": lambda r: ", ".join(f"{a:.2f}" for a in r["accuracies"]),
    "published": lambda r: r["published"] or "",
    "trials": lambda r: f"{r['steps']:,.0f}",
    "kept": lambda r: f"{100 * r['kept']:.0f} %",
    "examples": lambda r: f"{r['examples']:,.0f}",
    "true epsilon": _spent,
    "by PLD": lambda r: "" if r["epsilon_pld"] is None else f"{r['epsilon_pld']:.2f}",
    "minutes a run": lambda r: f"{r['seconds'] / 60 / len(r['accuracies']):.1f}",
}
_SCREENED = ("trials", "kept")
