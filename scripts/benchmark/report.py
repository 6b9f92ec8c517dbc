"""Draws `table.md` and `benchmark.png` from the results of `run.py`.

To draw them again: python scripts/benchmark/report.py FOLDER
"""

import json
import pathlib
import statistics
from typing import Any

import cases
import matplotlib
from absl import app

matplotlib.use("Agg")

from matplotlib import pyplot

COLORS = {
    "tfdp": "#1b6ca8",
    "tensorflow_privacy": "#e08a1e",
    "opacus": "#c44e52",
    "jax_privacy": "#55a868",
}


def times(record: dict[str, Any], kind: str) -> list[float]:
    """Seconds of all steps of `kind`."""
    return [seconds for entry in record["rounds"] for seconds in entry[kind]]


def ratios(record: dict[str, Any]) -> list[float]:
    """Private over ordinary time, by round."""
    return [
        statistics.median(entry["private"]) / statistics.median(entry["ordinary"])
        for entry in record["rounds"]
    ]


def examples_of(case: cases.Case, unit: str) -> int:
    """How many examples one step, or one epoch, takes (in expectation)."""
    return case.batch_size * (case.fit_steps if unit == "epoch" else 1)


def rate(record: dict[str, Any], kind: str, examples: int) -> float:
    """Examples a second, from the median time."""
    return examples / statistics.median(times(record, kind))


def _profiled(record: dict[str, Any], kind: str, field: str, pattern: str) -> str:
    value = record.get("profile", {}).get(kind, {}).get(field)
    return "" if value is None else pattern.format(value)


def _row(name: str, record: dict[str, Any], examples: int) -> str:
    if not record["rounds"]:
        return f"| {name} | {record.get('error', 'not measured')} |" + " |" * 5
    by_round = ratios(record)
    cells = [
        name,
        f"{rate(record, 'private', examples):,.0f}",
        f"{rate(record, 'ordinary', examples):,.0f}",
        f"**{statistics.median(by_round):.2f}** ({min(by_round):.2f} to {max(by_round):.2f})",
        _profiled(record, "private", "peak_mib", "{:,.0f}"),
        _profiled(record, "ordinary", "peak_mib", "{:,.0f}"),
        _profiled(record, "private", "first_seconds", "{:.1f}"),
    ]
    return "| " + " | ".join(cells) + " |"


def table(results: dict[str, Any]) -> str:
    """All results as Markdown."""
    lines = []
    for unit, heading in (("step", "One step"), ("epoch", "`fit`, whole epochs")):
        for name, outcome in results[unit].items():
            case, where = cases.CASES[name], outcome["machine"]
            loads = [
                entry["load"]
                for record in outcome["records"].values()
                for entry in record["rounds"]
            ]
            lines += [
                f"### {heading}: {case.title}, batch {case.batch_size}",
                "",
                f"{case.parameters:,} trainable parameters. "
                f"{where['cores']} cores, {where['cpu']}, {where['date']}; "
                f"load {min(loads, default=0):.1f} to {max(loads, default=0):.1f}.",
                "",
                "| | private examples/s | ordinary examples/s | private / ordinary time (by round) "
                "| peak MiB private | peak MiB ordinary | first private step s |",
                "| --- | --- | --- | --- | --- | --- | --- |",
            ]
            examples = examples_of(case, unit)
            lines += [_row(who, record, examples) for who, record in outcome["records"].items()]
            lines.append("")
    return "\n".join(lines)


def plot(results: dict[str, Any], path: pathlib.Path) -> None:
    """Private examples a second by framework, a panel a case, with the ratio beside each bar."""
    outcomes = results["step"]
    columns = min(2, len(outcomes))
    rows = -(-len(outcomes) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(7 * columns, 2.6 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(outcomes) :]:
        axis.remove()
    for axis, (name, outcome) in zip(axes.flat, outcomes.items(), strict=False):
        case = cases.CASES[name]
        for position, (who, record) in enumerate(outcome["records"].items()):
            if not record["rounds"]:
                axis.annotate(" did not run", (0, position), va="center", color="gray", fontsize=8)
                continue
            value = rate(record, "private", case.batch_size)
            bar = axis.barh(position, value, color=COLORS[who.split(":")[0]])
            axis.bar_label(bar, [f" {statistics.median(ratios(record)):.3g}×"], fontsize=8)
        axis.set_yticks(range(len(outcome["records"])), list(outcome["records"]), fontsize=8)
        axis.set_ylim(len(outcome["records"]) - 0.5, -0.5)
        axis.margins(x=0.12)
        axis.set_title(f"{case.title}, batch {case.batch_size}", fontsize=10)
        axis.set_xlabel("private examples/s (beside: private / ordinary time)", fontsize=8)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def write(results: dict[str, Any], folder: pathlib.Path) -> None:
    """Writes the table and the picture into `folder`."""
    (folder / "table.md").write_text(table(results))
    if results["step"]:
        plot(results, folder / "benchmark.png")


def main(argv: list[str]) -> None:
    """Draws the report of the folder named on the command line."""
    folder = pathlib.Path(argv[1])
    write(json.loads((folder / "results.json").read_text()), folder)


if __name__ == "__main__":
    app.run(main)
