r"""Searches hyper-parameters on simulated runs of `train.py`: cheap, and NOT PRIVATE.

    python scripts/simulate.py --dataset=mnist --batch_size=4096 --simulate_at=64 \
        --search=learning_rate=1,2,4,8 --search=momentum=0,0.9 --output_dir=runs/search
    python scripts/simulate.py --dataset=mnist --simulate_at=32 --trials=20 \
        --search=learning_rate=0.1..10 --search=l2_norm_clip=0.1,1
    python scripts/train.py --from_simulation=runs/search --output_dir=runs/found

Takes all flags of `train.py`, which describe the private run, and simulates it with each of the
values. A run is scored by its accuracy on `--validation_examples` training images that are held out
(5,000 unless told otherwise). `--output_dir` gets `trials.csv`, `best.json` and `search.png`; a
search that was interrupted goes on.
"""

import functools
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

from absl import flags

import tfdp
from tfdp.scripts import command_line, read_files, train_report, train_settings, whole_files
from tfdp.scripts.command_line import UsageError

SEARCHED = (
    *("learning_rate", "momentum", "l2_norm_clip", "optimizer", "model", "activation"),
    *("augmentation", "augmentation_multiplicity", "ema_decay"),
)
_OWN = ("search", "trials", "workers", "output_dir", "from_simulation", "resume", "verbose")
_HELD_OUT = 5000


def declare_flags(values: flags.FlagValues) -> None:
    """Defines the flags of `train.py`, and those of the search, on `values`."""
    train_settings.declare_flags(values)
    flags.DEFINE_multi_string(
        "search",
        [],
        f"NAME=VALUE,VALUE,... or, with --trials, NAME=LOW..HIGH. Names: {', '.join(SEARCHED)}.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "trials", None, "Random points to try. Defaults to all combinations.", 1, flag_values=values
    )
    flags.DEFINE_integer("workers", 1, "Runs at a time.", 1, flag_values=values)


def simulate(values: flags.FlagValues) -> None:
    """Searches, and prints what was found.

    Raises:
        UsageError: Before any run, naming the flag and the value received.
    """
    if values.simulate_at is None:
        raise UsageError("Give --simulate_at, the batch size of the runs. Received: None")
    train_settings.check_flags(values)
    space = dict(_axis(text, values.trials) for text in values.search)
    if not space:
        raise UsageError("Give --search=NAME=VALUE,... at least once. Received: search=[]")
    folder = values.output_dir or os.path.join("runs", f"{values.dataset}_search")
    train_settings.prepare_output_dir(folder)
    given = {
        name: values[name].value
        for name in _names_of_train()
        if values[name].present and name not in _OWN
    }
    given.setdefault("validation_examples", _HELD_OUT)
    _go_on_only_with_the_same(os.path.join(folder, train_settings.REFERENCE_FILE), given)
    try:
        found = tfdp.simulation.search(
            functools.partial(train, given),
            space,
            folder,
            trials=values.trials,
            workers=values.workers,
        )
    except (RuntimeError, ValueError) as error:
        raise UsageError(str(error)) from error
    print(f"\nbest: {found.best.parameters}, accuracy {found.best.score:.2%} on held-out images")
    print(f"all:  {os.path.join(folder, 'trials.csv')} ({tfdp.simulation.NOT_PRIVATE})")
    print(f"to train it privately: tfdp-train --from_simulation={folder} --output_dir=...")


def train(given: dict[str, Any], parameters: dict[str, Any], folder: str) -> float:
    """One simulated run, in a process of its own; its accuracy.

    Raises:
        RuntimeError: If the run failed.
    """
    command = [
        sys.executable,
        str(pathlib.Path(__file__).with_name("train.py")),
        *(f"--{name}={value}" for name, value in {**given, **parameters}.items()),
        *(f"--output_dir={folder}", "--resume"),
    ]
    log = os.path.join(folder, "train.log")
    with open(log, "a") as file:
        done = subprocess.run(command, stdout=file, stderr=file, check=False)
    if done.returncode:
        raise RuntimeError(f"code {done.returncode}, see {log}")
    return train_report.read(folder).test_accuracy


def _go_on_only_with_the_same(path: str, given: dict[str, Any]) -> None:
    """Writes down what is simulated; refuses to add to a search on something else.

    Raises:
        UsageError: Naming the folder.
    """
    reference = {n: v for n, v in given.items() if n not in ("simulate_at", "validation_examples")}
    record = {"parameters": reference, "simulated": given}
    if os.path.exists(path):
        before = read_files.json_object(path, simulated=dict[str, Any])
        if before != record:
            raise UsageError(
                f"--output_dir holds a search with other flags, {before['simulated']}: take "
                f"another folder. Received: output_dir={os.path.dirname(path)!r}"
            )
    with whole_files.replacing(path) as partial, open(partial, "w") as file:
        json.dump(record, file, indent=2)


def _names_of_train() -> list[str]:
    own = flags.FlagValues()
    train_settings.declare_flags(own)
    return list(own)


def _axis(text: str, trials: int | None) -> tuple[str, Any]:
    name, _, values = text.partition("=")
    if name not in SEARCHED or not values:
        raise UsageError(
            f"--search takes NAME=VALUE,..., with a NAME among {', '.join(SEARCHED)}. "
            f"Received: search={text}"
        )
    low, dots, high = values.partition("..")
    try:
        if not dots:
            return name, [_number(value) for value in values.split(",")]
        if trials is None:
            raise ValueError("a range needs --trials")
        return name, tfdp.simulation.LogUniform(float(low), float(high))
    except ValueError as error:
        raise UsageError(f"--search: {error}. Received: search={text}") from error


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def main() -> None:
    """Runs the program; the `tfdp-simulate` command."""
    command_line.run(__doc__, declare_flags, simulate)


if __name__ == "__main__":
    main()
