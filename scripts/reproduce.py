"""Repeats an experiment of RESULTS.md: runs every row with several seeds, writes the table.

    python scripts/reproduce.py --list
    python scripts/reproduce.py --experiment=screening --seeds=3
    python scripts/reproduce.py --experiment=screening --quick   # does it work? seconds a row

Each run is one of `train.py` or `synthesize.py`, in a folder of its own below `--output_dir`, with
its record, privacy statement and checkpoint. What is finished there is not run again, and what was
interrupted goes on after its last epoch: start the same command again. After each run `table.md`,
`results.json` and `results.png` show what there is by then.

The settings are in `experiments.py`.
"""

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

from absl import flags

from tfdp.scripts import (
    command_line,
    reproduce_synthesis,
    reproduce_training,
    train_report,
    whole_files,
)
from tfdp.scripts.command_line import UsageError
from tfdp.scripts.experiments import EXPERIMENTS, Experiment, Row

#: What says what came of the runs of a program.
_REPORTS = {"train": reproduce_training, "synthesize": reproduce_synthesis}


def declare_flags(values: flags.FlagValues) -> None:
    """Defines the flags of `reproduce.py` on `values`."""

    def define(kind, name, default, text, *args, **kwargs):
        kind(name, default, *args, help=text, flag_values=values, **kwargs)

    define(flags.DEFINE_enum, "experiment", None, "What to repeat.", list(EXPERIMENTS))
    define(flags.DEFINE_bool, "list", False, "Say what there is, and do nothing.")
    whole = flags.DEFINE_integer
    define(whole, "seeds", 3, "Runs of each row, with seeds from 0.", lower_bound=1)
    define(flags.DEFINE_list, "rows", None, "Rows to run, by name. Defaults to all.")
    define(whole, "jobs", 1, "Runs at a time.", lower_bound=1)
    define(flags.DEFINE_bool, "quick", False, "A few steps, to see that it works.")
    define(flags.DEFINE_string, "output_dir", None, "Folder. Defaults to runs/<experiment>.")


def command_of(
    program: str, row: Row, seed: int, folder: pathlib.Path, quick: dict[str, Any]
) -> list[str]:
    """The command that runs a row with a seed."""
    chosen = {**row.flags, **quick, "seed": seed, "output_dir": folder, "verbose": 2}
    return [
        sys.executable,
        str(pathlib.Path(__file__).with_name(f"{program}.py")),
        *(["--resume"] if program == "train" else []),  # `synthesize.py` always goes on.
        *(f"--{name}={value}" for name, value in chosen.items()),
    ]


def folder_of(row: Row, seed: int, folder: pathlib.Path) -> pathlib.Path:
    """Where a run leaves its results."""
    return folder / row.dataset / row.name / str(seed)


def run(
    experiment: Experiment,
    row: Row,
    seed: int,
    folder: pathlib.Path,
    quick: dict[str, Any],
    threads: int,
) -> str:
    """Runs a row with a seed, or goes on where that stopped; says what came of it.

    Raises:
        RuntimeError: If the run failed, or its folder has one with other settings.
    """
    place = folder_of(row, seed, folder)
    place.mkdir(parents=True, exist_ok=True)
    log = place / "run.log"
    limit = dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"), str(threads))
    if row.after is not None:
        quick = {**quick, "pretrained": folder_of(row.after, 0, folder)}
    # Also where there is a record: only the program knows whether it is of these settings.
    with open(log, "a") as file:
        done = subprocess.run(
            command_of(experiment.program, row, seed, place, quick),
            stdout=file,
            stderr=file,
            env=os.environ | limit,
            check=False,
        )
    said = f"{row.dataset}, {row.label}, seed {seed}"
    if done.returncode:
        raise RuntimeError(f"{said}: code {done.returncode}, see {log}")
    found = json.loads((place / train_report.RECORD_FILE).read_text())
    return f"{said}: {_REPORTS[experiment.program].one_line(found)}"


def write(experiment: Experiment, folder: pathlib.Path, seeds: int) -> str | None:
    """Writes what there is of the results; the table, if there is something."""
    report = _REPORTS[experiment.program]
    results: dict[str, list[dict]] = {}
    for title, rows in experiment.rows.items():
        for row in rows:
            folders = [folder_of(row, seed, folder) for seed in _seeds(row, seeds)]
            files = [place / train_report.RECORD_FILE for place in folders]
            records = [json.loads(file.read_text()) for file in files if file.exists()]
            if records:
                results.setdefault(title, []).append(report.result_of(row, records))
    if not results:
        return None
    text = report.table(experiment, results)
    numbers = json.dumps(results, indent=2, allow_nan=False)
    for name, content in (("table.md", text), ("results.json", numbers)):
        with whole_files.replacing(str(folder / name)) as path:
            pathlib.Path(path).write_text(content)
    for name, picture in report.pictures(experiment, results).items():
        with whole_files.replacing(str(folder / name)) as path:
            picture.savefig(path, dpi=150)
    return text


def reproduce(values: flags.FlagValues) -> None:
    """Runs what is asked for and not there yet, and writes the results after each run.

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
    if quick:
        told = "(quick check, with other settings)"
        tables = {f"{title} {told}": rows for title, rows in experiment.rows.items()}
        experiment = dataclasses.replace(experiment, rows=tables)
    name = values.experiment + ("_quick" if quick else "")
    folder = pathlib.Path(values.output_dir or f"runs/{name}")
    threads = max(1, (os.cpu_count() or 1) // values.jobs)
    rows = _chosen(experiment, values.rows)
    runs = [(row, seed) for seed in range(values.seeds) for row in rows]
    runs = _once([(row, seed) for row, seed in runs if seed in _seeds(row, values.seeds)])
    first = _once([(row.after, 0) for row in rows if row.after is not None])
    failures = []
    with concurrent.futures.ThreadPoolExecutor(values.jobs) as pool:
        for part in (first, runs):
            waiting = [
                pool.submit(run, experiment, row, seed, folder, quick, threads)
                for row, seed in part
            ]
            for number, done in enumerate(concurrent.futures.as_completed(waiting), 1):
                try:
                    said = done.result()
                except RuntimeError as error:
                    said = str(error)
                    failures.append(said)
                print(f"[{number}/{len(waiting)}] {said}", flush=True)
                write(experiment, folder, values.seeds)
            if part is first and failures:
                break
    text = write(experiment, folder, values.seeds)
    if text is not None:
        print(f"\n{text}\nresults in {folder}")
    if failures:
        sys.exit(f"{len(failures)} of {len(first) + len(runs)} runs failed.")


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


def _once(runs: list[tuple[Row, int]]) -> list[tuple[Row, int]]:
    """Runs that belong to several tables are in one folder."""
    return list({(row.dataset, row.name, seed): (row, seed) for row, seed in runs}.values())


def _seeds(row: Row, seeds: int) -> range:
    return range(seeds if row.seeds is None else min(row.seeds, seeds))


def main() -> None:
    """Runs the program."""
    command_line.run(__doc__, declare_flags, reproduce)


if __name__ == "__main__":
    main()
