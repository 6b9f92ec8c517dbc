"""What `reproduce.py` says about runs of `synthesize.py`: what the images are worth, and cost."""

import statistics
from typing import Any

from matplotlib.figure import Figure

from tfdp.scripts import reproduce_layout as layout
from tfdp.scripts.experiments import Experiment, Row

Record = dict[str, Any]
#: What is drawn: the name in a result, and what the axis says.
_DRAWN = {
    "accuracies": "accuracy on real images, %",
    "distances": "Fréchet distance (less is better)",
}


def one_line(record: Record) -> str:
    """What came of one run."""
    if "downstream" not in record:
        return f"pre-trained in {record['seconds']['pretrain']:.0f} s"
    return (
        f"accuracy {100 * record['downstream']['accuracy']:.2f} %, "
        f"Fréchet distance {record['frechet']['distance']:.2f}, "
        f"fine-tuned in {record['seconds']['finetune']:.0f} s"
    )


def result_of(row: Row, records: list[Record]) -> Record:
    """Values by seed of a row, and means of what it has cost."""

    def mean(*path: str) -> float:
        return statistics.mean(_inside(record, path) for record in records)

    return {
        "name": row.name,
        "label": row.label,
        "x": row.x,
        "series": row.series,
        "accuracies": [100 * record["downstream"]["accuracy"] for record in records],
        "distances": [record["frechet"]["distance"] for record in records],
        "extractor": records[0]["frechet"]["extractor"],
        "distance_of_test_images": mean("frechet_of_test_images"),
        "precision": mean("precision_recall", "precision"),
        "recall": mean("precision_recall", "recall"),
        "copies_auc": mean("copies", "auc"),
        "copies_detected": mean("copies", "detected"),
        "selected": [record["selected"] for record in records],
        "trainable_parameters": mean("trainable_parameters"),
        "delta": records[0]["settings"]["delta"],
        "epsilon": {accountant: mean("epsilon", accountant) for accountant in ("rdp", "pld")},
        "epsilon_of_selection": mean("epsilon_of_selection"),
        "noise_multiplier": mean("noise_multiplier"),
        "seconds": {stage: mean("seconds", stage) for stage in records[0]["seconds"]},
        "peak_memory_mib": mean("peak_memory_mib"),
        "flags": row.flags,
    }


def table(experiment: Experiment, results: dict[str, list[Record]]) -> str:
    """The results in Markdown."""
    lines = [experiment.question, ""]
    columns = (
        *("", "accuracy, %", "Fréchet distance", "precision / recall", "trained parameters"),
        *("ε, of that the selection", "selection and tuning, s", "memory, MiB", "seeds"),
    )
    for title, found in results.items():
        rows = [
            (
                r["label"],
                layout.spread(r["accuracies"]),
                layout.spread(r["distances"]),
                f"{r['precision']:.2f} / {r['recall']:.2f}",
                f"{r['trainable_parameters']:,.0f}",
                f"{r['epsilon']['rdp']:.2f}, {r['epsilon_of_selection']:.3f}",
                f"{r['seconds']['select']:.0f} + {r['seconds']['finetune']:.0f}",
                f"{r['peak_memory_mib']:,.0f}",
                f"{len(r['accuracies'])}",
            )
            for r in found
        ]
        first = found[0]
        lines += layout.table(title, columns, rows) + [
            f"Features: {first['extractor']}; real test images have the distance "
            f"{first['distance_of_test_images']:.2f}. δ = {first['delta']:.2g}.",
            "",
        ]
    return "\n".join(lines)


def pictures(experiment: Experiment, results: dict[str, list[Record]]) -> dict[str, Figure]:
    """The picture, by the name of its file."""
    return {"results.png": _draw(experiment, results)}


def _draw(experiment: Experiment, results: dict[str, list[Record]]) -> Figure:
    """Accuracy and distance by row, or over the setting that rows differ in."""
    figure = Figure(figsize=(6 * len(results), 7), layout="constrained")
    for column, (title, found) in zip(
        figure.subplots(len(_DRAWN), len(results), squeeze=False).T, results.items(), strict=True
    ):
        column[0].set_title(title)
        for axes, (values, label) in zip(column, _DRAWN.items(), strict=True):
            if all(r["x"] is not None for r in found):
                curves: dict[str, dict[float, list[float]]] = {}
                for r in found:
                    curves.setdefault(r["series"], {})[r["x"]] = r[values]
                layout.draw_curves(axes, curves)
                axes.set(xlabel=experiment.axis, ylabel=label)
            else:
                layout.draw_rows(axes, [r["label"] for r in found], [r[values] for r in found])
                axes.set_xlabel(label)
    return figure


def _inside(record: Record, path: tuple[str, ...]) -> float:
    for name in path:
        record = record[name]
    return record
