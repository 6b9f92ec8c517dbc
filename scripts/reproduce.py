"""Repeats an experiment of RESULTS.md: trains every row with several seeds, writes the table.

    python scripts/reproduce.py --list
    python scripts/reproduce.py --experiment=screening --seeds=3
    python scripts/reproduce.py --experiment=screening --quick   # does it work? seconds a row

Each training is one run of `train.py`, in a folder of its own below `--output_dir`, with its
record, privacy statement and checkpoint. What is finished there is not run again, and what was
interrupted goes on after its last epoch: start the same command again. After each training
`table.md`, `results.json` and `accuracy.png` show what there is by then.

The settings are in `experiments.py`.
"""

import concurrent.futures
import json
import os
import pathlib
import statistics
import subprocess
import sys
from typing import Any

from absl import flags
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

import tfdp
from tfdp.scripts import command_line, train_report, train_screening, whole_files
from tfdp.scripts.command_line import UsageError
from tfdp.scripts.experiments import EXPERIMENTS, Experiment, Row

Record = dict[str, Any]


def declare_flags(values: flags.FlagValues) -> None:
    """Defines the flags of `reproduce.py` on `values`."""

    def define(kind, name, default, text, *args, **kwargs):
        kind(name, default, *args, help=text, flag_values=values, **kwargs)

    define(flags.DEFINE_enum, "experiment", None, "What to repeat.", list(EXPERIMENTS))
    define(flags.DEFINE_bool, "list", False, "Say what there is, and do nothing.")
    whole = flags.DEFINE_integer
    define(whole, "seeds", 3, "Trainings of each row, with seeds from 0.", lower_bound=1)
    define(flags.DEFINE_list, "rows", None, "Rows to train, by name. Defaults to all.")
    define(whole, "jobs", 1, "Trainings at a time.", lower_bound=1)
    define(flags.DEFINE_bool, "quick", False, "A few steps on digits, in place of the real thing.")
    define(flags.DEFINE_string, "output_dir", None, "Folder. Defaults to runs/<experiment>.")


def command_of(row: Row, seed: int, folder: pathlib.Path, quick: dict[str, Any]) -> list[str]:
    """The command that trains a row with a seed."""
    chosen = {**row.flags, **quick, "seed": seed, "output_dir": folder, "verbose": 2}
    return [
        sys.executable,
        str(pathlib.Path(__file__).with_name("train.py")),
        "--resume",
        *(f"--{name}={value}" for name, value in chosen.items()),
    ]


def folder_of(row: Row, seed: int, folder: pathlib.Path) -> pathlib.Path:
    """Where a training leaves its results."""
    return folder / row.flags["dataset"] / row.name / str(seed)


def train(row: Row, seed: int, folder: pathlib.Path, quick: dict[str, Any], threads: int) -> str:
    """Trains a row with a seed, or goes on where that stopped; says what came of it.

    Raises:
        RuntimeError: If the training failed, or the folder has a run with other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "train.log"
    limit = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"), str(threads))
    # Also where there is a record: only `train.py` knows whether it is of these settings.
    with open(log, "a") as file:
        done = subprocess.run(
            command_of(row, seed, folder, quick),
            stdout=file,
            stderr=file,
            env=os.environ | limit,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"{row.label}, seed {seed}: code {done.returncode}, see {log}")
    found = json.loads((folder / train_report.RECORD_FILE).read_text())
    return (
        f"{found['dataset']}, {row.label}, seed {seed}: {100 * found['test_accuracy']:.2f} % "
        f"after {found['seconds']:.0f} s"
    )


def result_of(row: Row, records: list[Record]) -> Record:
    """Mean and spread over the seeds of a row."""
    accuracies = [100 * record["test_accuracy"] for record in records]
    simulated = records[0]["settings"]["simulate_at"] is not None
    return {
        "name": row.name,
        "label": row.label,
        "published": row.published,
        "x": row.x,
        "series": row.series,
        "accuracies": accuracies,
        "mean": statistics.mean(accuracies),
        "stddev": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "epsilon": None if simulated else statistics.mean(map(true_epsilon, records)),
        "guaranteed": all(record["epsilon"]["rdp"] is not None for record in records),
        "steps": statistics.mean(trials(record) for record in records),
        "kept": statistics.mean(
            record["history"].get("acceptance_rate", [1.0])[-1] for record in records
        ),
        "examples": statistics.mean(examples(record) for record in records),
        "seconds": sum(record["seconds"] for record in records),
        "flags": row.flags,
    }


def trials(record: Record) -> int:
    """Updates that were worked out, whether kept or not."""
    return int(record["history"].get("trials", [record["steps"]])[-1])


def examples(record: Record) -> int:
    """Examples that were worked on, each view of one counted, as far as expected."""
    views = record["settings"]["augmentation_multiplicity"]
    return trials(record) * record["expected_batch_size"] * views


def true_epsilon(record: Record) -> float:
    """Epsilon, by RDP, of everything that was worked out, whatever was charged for it."""
    ledger = train_screening.ledger_of(
        train_screening.recorded(record["settings"]),
        tfdp.accounting.dp_sgd_event(record["noise_multiplier"], record["sampling_probability"]),
        record["train_examples"],
        trials(record),
    )
    return ledger.epsilon(record["delta"])


def table(experiment: Experiment, results: dict[str, list[Record]]) -> str:
    """The results in Markdown."""
    lines = [experiment.question, ""]
    columns = (
        *("", "test accuracy, %", "by seed", "published", "trials", "kept", "examples"),
        "true epsilon",
    )
    for title, found in results.items():
        lines += [
            f"**{title}**",
            "",
            "| " + " | ".join(columns) + " |",
            "| " + " | ".join(["---"] * len(columns)) + " |",
        ]
        for r in found:
            spread = "" if r["stddev"] is None else f" ± {r['stddev']:.2f}"
            by_seed = ", ".join(f"{a:.2f}" for a in r["accuracies"])
            lines.append(
                f"| {r['label']} | {r['mean']:.2f}{spread} | {by_seed} | {r['published'] or ''} | "
                f"{r['steps']:,.0f} | {100 * r['kept']:.0f} % | {r['examples']:,.0f} | "
                f"{spent(r)} |"
            )
        lines.append("")
    return "\n".join(lines)


def spent(result: Record) -> str:
    """Epsilon, and what is wrong with it."""
    if result["epsilon"] is None:
        return "simulated: not private"
    return f"{result['epsilon']:.2f}" + ("" if result["guaranteed"] else " (charged less)")


def draw(experiment: Experiment, results: dict[str, list[Record]], path: str) -> None:
    """Accuracy by row: a dot a seed, a bar from one standard deviation below to one above."""
    if all(r["x"] is not None for found in results.values() for r in found):
        return _draw_curves(experiment.axis, results, path)
    rows = max(len(found) for found in results.values())
    figure = Figure(figsize=(6 * len(results), 1.2 + 0.45 * rows), layout="constrained")
    for axes, (title, found) in zip(
        figure.subplots(1, len(results), squeeze=False)[0], results.items(), strict=True
    ):
        for place, r in enumerate(found):
            color = "C0" if r["guaranteed"] else "C3"
            axes.errorbar(
                r["mean"], place, xerr=r["stddev"] or 0, color=color, capsize=4, marker="|", ms=14
            )
            axes.plot(r["accuracies"], [place] * len(r["accuracies"]), "o", color=color, alpha=0.5)
        labels = [f"{r['label']}\ntrue ε {spent(r).split(' (')[0]}" for r in found]
        axes.set_yticks(range(len(found)), labels, fontsize=8)
        axes.invert_yaxis()
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.margins(x=0.1)
        axes.set_xlabel("test accuracy, %\nred: more was spent than was charged")
        axes.set_title(title)
        axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=150)


def _draw_curves(axis: str, results: dict[str, list[Record]], path: str) -> None:
    """Accuracy over a setting of the rows: a dot a seed, a curve through the means."""
    figure = Figure(figsize=(6 * len(results), 4), layout="constrained")
    for axes, (title, found) in zip(
        figure.subplots(1, len(results), squeeze=False)[0], results.items(), strict=True
    ):
        for number, series in enumerate(dict.fromkeys(r["series"] for r in found)):
            curve = sorted((r for r in found if r["series"] == series), key=lambda r: r["x"])
            x, color = [r["x"] for r in curve], f"C{number}"
            axes.errorbar(
                x,
                [r["mean"] for r in curve],
                [r["stddev"] or 0 for r in curve],
                color=color,
                capsize=4,
                label=series or None,
            )
            for r in curve:
                axes.plot([r["x"]] * len(r["accuracies"]), r["accuracies"], "o", c=color, alpha=0.5)
        ticks = sorted({r["x"] for r in found})
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
        axes.minorticks_off()
        axes.set(xlabel=axis, ylabel="accuracy, %", title=title)
        axes.grid(alpha=0.3)
        if found[0]["series"]:
            axes.legend()
    figure.savefig(path, dpi=150)


def write(experiment: Experiment, folder: pathlib.Path, seeds: int) -> str | None:
    """Writes what there is of the results; the table, if there is something."""
    results: dict[str, list[Record]] = {}
    for title, rows in experiment.rows.items():
        for row in rows:
            folders = [folder_of(row, seed, folder) for seed in range(seeds)]
            files = [place / train_report.RECORD_FILE for place in folders]
            records = [json.loads(file.read_text()) for file in files if file.exists()]
            if records:
                results.setdefault(title, []).append(result_of(row, records))
    if not results:
        return None
    text = table(experiment, results)
    for name, content in (("table.md", text), ("results.json", json.dumps(results, indent=2))):
        with whole_files.replacing(str(folder / name)) as path:
            pathlib.Path(path).write_text(content)
    with whole_files.replacing(str(folder / "accuracy.png")) as path:
        draw(experiment, results, path)
    return text


def reproduce(values: flags.FlagValues) -> None:
    """Trains what is asked for and not there yet, and writes the results after each training.

    Raises:
        UsageError: Naming the flag and the value received.
    """
    if values.list:
        print(contents())
        return
    if values.experiment is None:
        raise UsageError("Give --experiment; --list says what there is. Received: experiment=None")
    experiment = EXPERIMENTS[values.experiment]
    quick = experiment.quick if values.quick else {}
    name = values.experiment + ("_quick" if quick else "")
    folder = pathlib.Path(values.output_dir or f"runs/{name}")
    threads = max(1, (os.cpu_count() or 1) // values.jobs)
    failures = []
    with concurrent.futures.ThreadPoolExecutor(values.jobs) as pool:
        waiting = [
            pool.submit(train, row, seed, folder_of(row, seed, folder), quick, threads)
            for seed in range(values.seeds)
            for row in _chosen(experiment, values.rows)
        ]
        for number, done in enumerate(concurrent.futures.as_completed(waiting), 1):
            try:
                said = done.result()
            except RuntimeError as error:
                said = str(error)
                failures.append(said)
            print(f"[{number}/{len(waiting)}] {said}", flush=True)
            text = write(experiment, folder, values.seeds)
    if text is not None:
        print(f"\n{text}\nresults in {folder}")
    if failures:
        sys.exit(f"{len(failures)} of {len(waiting)} trainings failed.")


def contents() -> str:
    """What there is to repeat."""
    lines = []
    for name, experiment in EXPERIMENTS.items():
        lines.append(f"{name}: {experiment.question}")
        for title, rows in experiment.rows.items():
            lines.append(f"  {title}: {', '.join(row.name for row in rows)}")
    return "\n".join(lines)


def _chosen(experiment: Experiment, names: list[str] | None) -> list[Row]:
    rows = [row for rows in experiment.rows.values() for row in rows]
    if names is None:
        return rows
    known = dict.fromkeys(row.name for row in rows)
    if not set(names) <= set(known):
        raise UsageError(f"--rows takes {', '.join(known)}. Received: rows={','.join(names)}")
    return [row for row in rows if row.name in names]


def main() -> None:
    """Runs the program."""
    command_line.run(__doc__, declare_flags, reproduce)


if __name__ == "__main__":
    main()
