"""Runs the steps of one framework in its own environment, when `run.py` asks for them.

Requests and answers are lines of JSON on the standard input and output. A request names a kind
(`"ordinary"` or `"private"`), a unit (`"step"` or `"epoch"` of `fit`), and an action:

* `"describe"` checks the model and answers the versions;
* `"measure"` runs up to `count` units within `seconds`, and at least one, after a warm-up the first
  time, and answers `{"seconds": [...]}`;
* `"profile"` answers the time of the first unit and by how much it, and up to two more, raised the
  memory that this process holds, at its height: for a process that has run nothing else.

An exception is answered as `{"error": "..."}`.
"""

import gc
import importlib
import importlib.metadata
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, TextIO

import cases
from absl import app, flags
from memory import HighWater, resident_mib

_FRAMEWORK = flags.DEFINE_string("framework", None, "Module of `frameworks/`.", required=True)
_METHOD = flags.DEFINE_string("method", None, "One of the module's METHODS.", required=True)
_CASE = flags.DEFINE_enum("case", None, list(cases.CASES), "The workload.", required=True)

Unit = Callable[[], object]
WARM_UP = 2
PROFILE_SECONDS = 10.0


def timed(unit: Unit) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    unit()
    return time.perf_counter() - start


class Worker:
    """Answers requests for one case and method of one framework."""

    def __init__(self, framework: str, method: str, case: cases.Case) -> None:
        self._module = importlib.import_module(f"frameworks.{framework}")
        self._method = method
        self._case = case
        self._units: dict[tuple[str, str], Unit] = {}

    def describe(self) -> dict[str, Any]:
        """The versions of the framework, after checking that it builds the model of the case."""
        parameters = self._module.num_parameters(self._case)
        if parameters != self._case.parameters:
            raise AssertionError(f"{parameters} parameters instead of {self._case.parameters}")
        packages = self._module.PACKAGES
        return {"versions": {name: importlib.metadata.version(name) for name in packages}}

    def _build(self, kind: str, unit: str) -> Unit:
        return getattr(self._module, f"{kind}_{unit}")(self._case, self._method)

    def measure(self, kind: str, unit: str, count: int, seconds: float) -> dict[str, Any]:
        """Times up to `count` units within `seconds`."""
        if (kind, unit) not in self._units:
            self._units[kind, unit] = self._build(kind, unit)
            spent = 0.0
            for _ in range(WARM_UP):
                if spent < seconds:
                    spent += timed(self._units[kind, unit])
        run = self._units[kind, unit]
        gc.collect()
        times = [timed(run)]
        while len(times) < count and sum(times) < seconds:
            times.append(timed(run))
        return {"seconds": times}

    def profile(self, kind: str, unit: str) -> dict[str, Any]:
        """The time of the first unit and the rise of memory over the first three."""
        run = self._build(kind, unit)
        gc.collect()
        before = resident_mib()
        with HighWater() as high_water:
            spent = first = timed(run)
            for _ in range(WARM_UP):
                if spent < PROFILE_SECONDS:
                    spent += timed(run)
        return {"first_seconds": first, "peak_mib": high_water.mib - before}


def describe_error(error: Exception) -> str:
    """The type and the text of `error` on one line, without the middle of a long text."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 300 else f"{text[:100]} ... {text[-195:]}"


def answer(request: dict[str, Any], worker: Worker) -> dict[str, Any]:
    """The answer to one request; an exception becomes its text."""
    arguments = dict(request)
    action = getattr(worker, arguments.pop("action"))
    try:
        return action(**arguments)
    except Exception as error:  # whatever a framework raises is a result of the benchmark
        traceback.print_exc()
        return {"error": describe_error(error)}


def private_stdout() -> TextIO:
    """The standard output; what the frameworks print goes to the standard error from now on."""
    stream = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return stream


def main(argv: list[str]) -> None:
    """Answers until the standard input ends."""
    del argv
    out = private_stdout()
    try:
        worker = Worker(_FRAMEWORK.value, _METHOD.value, cases.CASES[_CASE.value])
    except Exception as error:  # for example an import that fails: every request gets this answer
        traceback.print_exc()
        message = {"error": describe_error(error)}
        for _ in sys.stdin:
            print(json.dumps(message), file=out)
        return
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), worker)), file=out)


if __name__ == "__main__":
    app.run(main)
