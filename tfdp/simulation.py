"""Hyper-parameter search on simulated runs: small batches, little noise, nothing private.

A run of DP-SGD and its simulation at a small batch (`tfdp.tan.Run.at_batch_size`) agree on which
hyper-parameters are good, so the search is made there, at a fraction of the compute, and one
private run uses what it found. What a search costs in privacy is not accounted for: models and
scores of simulated runs must not be published, and the choice itself may tell something of the
data.

References:
    Sander, Stock, Sablayrolles 2023, "TAN Without a Burn: Scaling Laws of DP-SGD",
    arXiv:2210.03403; section 5.2 on what a search costs.
"""

from __future__ import annotations

import concurrent.futures
import csv
import dataclasses
import itertools
import json
import math
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfdp import _validate

#: What ledgers and statements of simulated runs say.
NOT_PRIVATE = "simulated: not private"
_RECORD = "trial.json"


@dataclasses.dataclass(frozen=True)
class LogUniform:
    """A range of positive numbers whose logarithm is drawn uniformly, for random search.

    Attributes:
        low: Lower end, positive.
        high: Upper end, above ``low``.

    Raises:
        TypeError: If an end is no number.
        ValueError: If the ends are out of range.

    Example:
        >>> import tfdp
        >>> tfdp.simulation.LogUniform(0.1, 10.0)
        LogUniform(low=0.1, high=10.0)
    """

    low: float
    high: float

    def __post_init__(self):
        low = _validate.positive("low", self.low)
        if _validate.positive("high", self.high) <= low:
            raise _validate.value_error("high", self.high, f"above low={low}")


@dataclasses.dataclass(frozen=True)
class Trial:
    """One simulated run.

    Attributes:
        parameters: Its hyper-parameters.
        score: What it reached; more is better. Not a number if it failed.
        seconds: How long it took.
        folder: Where it left its files.

    Example:
        >>> Trial({"learning_rate": 2.0}, score=0.81, seconds=12.5, folder="runs/search/a").score
        0.81
    """

    parameters: dict[str, Any]
    score: float
    seconds: float
    folder: str


@dataclasses.dataclass(frozen=True)
class Search:
    """The results of `search`, best first.

    Attributes:
        trials: All of them.

    Example:
        >>> trials = [Trial({"learning_rate": x}, x / 10, 1.0, f"runs/{x}") for x in (4, 2)]
        >>> Search(tuple(trials)).best.parameters
        {'learning_rate': 4}
    """

    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The trial with the highest score."""
        return self.trials[0]

    def write(self, folder: str) -> None:
        """Writes ``trials.csv``, ``best.json`` and ``search.png``."""
        names = list(self.best.parameters)
        with open(os.path.join(folder, "trials.csv"), "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*names, "score", "seconds", "folder", "note"])
            for trial in self.trials:
                values = [trial.parameters[name] for name in names]
                writer.writerow([*values, trial.score, trial.seconds, trial.folder, NOT_PRIVATE])
        best = {"parameters": self.best.parameters, "score": self.best.score, "note": NOT_PRIVATE}
        with open(os.path.join(folder, "best.json"), "w") as file:
            json.dump(best, file, indent=2)
        self.draw(os.path.join(folder, "search.png"))

    def draw(self, path: str) -> None:
        """Writes a picture: the scores against each hyper-parameter."""
        from matplotlib.figure import Figure  # Slow to import, and few who import tfdp need it.

        names = list(self.best.parameters)
        figure = Figure(figsize=(4 * len(names), 3.6), layout="constrained")
        for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
            values = [trial.parameters[name] for trial in self.trials]
            numeric = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
            if numeric and min(values) > 0 and max(values) > 10 * min(values):
                axes.set_xscale("log")
            axes.plot(
                values if numeric else [str(value) for value in values],
                [trial.score for trial in self.trials],
                "o",
                alpha=0.6,
            )
            axes.set(xlabel=name, ylabel="score")
            axes.grid(alpha=0.3)
        figure.suptitle(NOT_PRIVATE, fontsize=9)
        figure.savefig(path, dpi=150)


def search(
    train: Callable[[dict[str, Any], str], float],
    space: Mapping[str, Sequence | LogUniform],
    output_dir: str,
    *,
    trials: int | None = None,
    workers: int = 1,
    seed: int = 0,
) -> Search:
    """Tries hyper-parameters in simulated runs, several at a time, each in a process.

    What was tried before in ``output_dir`` is not tried again: a search that was interrupted goes
    on, and one with more trials adds to it.

    Args:
        train: ``(parameters, folder) -> score``, a function of a module, so that other processes
            can import it. It trains at a small batch size, marks its ledger by
            ``private.ledger.mark_not_private(tfdp.simulation.NOT_PRIVATE)``, and may leave files in
            the folder, also to go on from. An exception from it is a failed trial.
        space: For each hyper-parameter the values to try, or a `LogUniform` range.
        output_dir: Folder of the trials and the results.
        trials: How many random points to try; without it all combinations of the values.
        workers: Trials at a time. Defaults to 1.
        seed: Of the random points. Defaults to 0.

    Returns:
        A `Search`, which was also written to ``output_dir``: ``trials.csv``, ``best.json`` and
        ``search.png``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the space is empty, or a range is given without a number of trials; if the
            record of an earlier trial in ``output_dir`` is damaged.
        RuntimeError: If every trial failed.

    Formal guarantee: none. No run of a search is private.

    Example:
        With a function ``train`` in a module ``training``, as it starts other processes:

        >>> import tfdp, training  # doctest: +SKIP
        >>> found = tfdp.simulation.search(  # doctest: +SKIP
        ...     training.train, {"learning_rate": [1.0, 2.0, 4.0]}, "runs/search")
        >>> print(found.best)  # doctest: +SKIP
    """
    if not callable(train):
        raise _validate.type_error("train", train, "a function (parameters, folder) -> score")
    output_dir = _validate.path("output_dir", output_dir)
    workers = _validate.integer("workers", workers, minimum=1)
    points = _points(space, trials, _validate.integer("seed", seed))
    os.makedirs(output_dir, exist_ok=True)
    folders = {os.path.join(output_dir, _name(point)): point for point in points}
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        running = {
            pool.submit(_run, train, point, folder): folder
            for folder, point in folders.items()
            if _read(folder) is None
        }
        for number, done in enumerate(concurrent.futures.as_completed(running), 1):
            done.result()
            trial = _read(running[done])
            print(f"[{number}/{len(running)}] {trial.parameters}: {trial.score:.4g}", flush=True)
    found = [_read(folder) for folder in folders]
    found.sort(
        key=lambda trial: -math.inf if math.isnan(trial.score) else trial.score, reverse=True
    )
    if math.isnan(found[0].score):
        raise RuntimeError(f"Every trial failed; the first one's error is in {found[0].folder}.")
    result = Search(tuple(found))
    result.write(output_dir)
    return result


def _points(
    space: Mapping[str, Sequence | LogUniform], trials: int | None, seed: int
) -> list[dict[str, Any]]:
    if not isinstance(space, Mapping) or not space:
        raise _validate.value_error("space", space, "a dictionary of hyper-parameters")
    for name, values in space.items():
        listed = isinstance(values, Sequence) and not isinstance(values, str) and len(values)
        if not (listed or (isinstance(values, LogUniform) and trials is not None)):
            raise ValueError(
                f"`space` needs a list of values for {name!r}, or, for a number of trials, a "
                f"LogUniform. Received: space={{{name!r}: {values!r}}}, trials={trials}"
            )
    if trials is None:
        return [
            dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())
        ]
    draw = random.Random(seed)
    points = []
    for _ in range(_validate.integer("trials", trials, minimum=1)):
        point = {
            name: math.exp(draw.uniform(math.log(values.low), math.log(values.high)))
            if isinstance(values, LogUniform)
            else draw.choice(list(values))
            for name, values in space.items()
        }
        if point not in points:
            points.append(point)
    return points


def _name(point: dict[str, Any]) -> str:
    """A folder's name for a point."""
    shown = (f"{value:.6g}" if isinstance(value, float) else str(value) for value in point.values())
    pairs = zip(point, shown, strict=True)
    return ",".join(f"{name}={text}" for name, text in pairs).replace(os.sep, "_")


def _run(train: Callable, point: dict[str, Any], folder: str) -> None:
    """One trial, in a process of its own."""
    os.makedirs(folder, exist_ok=True)
    started = time.monotonic()
    try:
        score, error = float(train(point, folder)), None
    except Exception as caught:  # One bad point must not end the search; its record says why.
        score, error = math.nan, repr(caught)
    record = {
        "parameters": point,
        "score": None if math.isnan(score) else score,
        "seconds": time.monotonic() - started,
        "error": error,
        "note": NOT_PRIVATE,
    }
    partial = os.path.join(folder, f"partial.{_RECORD}")
    with open(partial, "w") as file:
        json.dump(record, file, indent=2)
    os.replace(partial, os.path.join(folder, _RECORD))


def _read(folder: str) -> Trial | None:
    path = os.path.join(folder, _RECORD)
    if not os.path.exists(path):
        return None
    try:
        with open(path, encoding="utf-8") as file:
            record = json.load(file)
        score = (
            math.nan
            if record["score"] is None
            else _validate.real("score", record["score"], allow_infinity=True)
        )
        if not isinstance(record["parameters"], dict):
            raise _validate.type_error("parameters", record["parameters"], "an object")
        return Trial(
            record["parameters"], score, _validate.real("seconds", record["seconds"]), folder
        )
    except (LookupError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(
            f"`output_dir` has a trial whose record is damaged ({error}): remove it to run the "
            f"trial again. Received: {path}"
        ) from error
