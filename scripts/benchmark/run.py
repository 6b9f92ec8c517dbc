"""Times the private step of tfdp and of its peers, interleaved, on the same work.

One command; environments of peers that are missing are prepared first (see `environments.py`):

    python scripts/benchmark/run.py --output_dir=runs/benchmark
    python scripts/benchmark/run.py --cases=mlp_256 --frameworks=tfdp,opacus --rounds=3
    python scripts/benchmark/run.py --fit --cases=cifar_cnn_64

Each framework and method runs in a process of its own environment, and works only when asked to. A
round asks every one of them in turn for a block of ordinary steps and a block of private steps; the
next round begins with another. The ratio of private to ordinary time is taken within a round and
a process. Memory and the first step are measured beforehand, each in a fresh process. What a
framework cannot run is recorded with its error.

Whole epochs of `fit` (`--fit`) are measured for tfdp against plain Keras alone.

The results are added to `results.json` in the output folder after each case, replacing an earlier
run of the same case; `table.md` and `benchmark.png` are drawn from it. Linux only (`/proc`).
"""

import contextlib
import datetime
import json
import os
import pathlib
import platform
import re
import selectors
import subprocess
import sys
import time
from typing import Any

import cases
import environments
import report
from absl import app, flags, logging

TFDP = "tfdp"
METHODS = {
    TFDP: ("tfdp",),
    "tensorflow_privacy": ("vectorized optimizer", "DPModel", "DPModel XLA", "DPModel registry"),
    "opacus": ("hooks", "ghost"),
    "jax_privacy": ("clipped_grad", "Keras API"),
}

_CASES = flags.DEFINE_list("cases", list(cases.CASES), "Workloads to run.")
_FRAMEWORKS = flags.DEFINE_list("frameworks", list(METHODS), "Frameworks to run.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds over all frameworks.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 10, "Steps of one block, at most.", lower_bound=1)
_SECONDS = flags.DEFINE_float("seconds", 3.0, "Seconds of one block; one step is run anyway.")
_TIMEOUT = flags.DEFINE_float("timeout", 240.0, "Seconds to wait for the answer of a process.")
_MEMORY = flags.DEFINE_float("memory_gib", 14.0, "Memory above which a process is ended.")
_IDLE = flags.DEFINE_float("idle_gib", 1.5, "Memory above which a process ends after its turn.")
_FIT = flags.DEFINE_boolean("fit", False, "Measure epochs of `fit`, for tfdp and plain Keras.")
_OUTPUT = flags.DEFINE_string("output_dir", "runs/benchmark", "Folder of the results.")

KINDS = ("ordinary", "private")
Record = dict[str, Any]


def resident_gib(pid: int) -> float:
    """Memory that the process holds, and 0 when it has ended."""
    try:
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"VmRSS:\s+(\d+)", status)
    return int(found.group(1)) / 2**20 if found else 0.0


class Process:
    """A worker process, started when it is first asked something."""

    def __init__(self, framework: str, method: str, case: str, log: pathlib.Path) -> None:
        self._command = [
            sys.executable if framework == TFDP else str(environments.interpreter_of(framework)),
            str(pathlib.Path(__file__).with_name("worker.py")),
            f"--framework={framework}",
            f"--method={method}",
            f"--case={case}",
        ]
        self._log = log
        self._process: subprocess.Popen | None = None

    def _start(self) -> subprocess.Popen:
        search_path = os.pathsep.join(
            filter(None, [str(environments.CHECKOUT), os.environ.get("PYTHONPATH")])
        )
        with open(self._log, "a") as log:
            return subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | {"PYTHONPATH": search_path, "TF_CPP_MIN_LOG_LEVEL": "2"},
                text=True,
                bufsize=1,
            )

    def ask(self, action: str, **arguments: Any) -> Record:
        """The answer to a request, or an error after too much time or memory."""
        if self._process is None:
            self._process = self._start()
        process = self._process
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps({"action": action, **arguments}) + "\n")
        error = self._wait(process)
        if error is None:
            line = process.stdout.readline()
            if line:
                return json.loads(line)
            error = f"the process ended with code {process.wait()}"
        self.close()
        return {"error": error}

    def _wait(self, process: subprocess.Popen) -> str | None:
        """Waits until there is something to read; says why not."""
        deadline = time.monotonic() + _TIMEOUT.value
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not selector.select(0.2):
                if resident_gib(process.pid) > _MEMORY.value:
                    return f"more than {_MEMORY.value:g} GiB of memory"
                if time.monotonic() > deadline:
                    return f"no answer within {_TIMEOUT.value:g} s"
        return None

    def rest(self) -> None:
        """Ends the process if it holds more memory than an idle one may."""
        if self._process is not None and resident_gib(self._process.pid) > _IDLE.value:
            self.close()

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def profile(case: str, contestants: dict[str, tuple[str, str]], logs: pathlib.Path) -> Record:
    """The first step and the memory of each, in fresh processes; ordinary ones once a framework."""
    records: Record = {}
    for name, (framework, method) in contestants.items():
        records[name] = {"profile": {}, "rounds": []}
        first_method = method == METHODS[framework][0]
        for kind in KINDS if first_method else ("private",):
            process = Process(framework, method, case, logs / f"{framework}.log")
            description = process.ask("describe")
            if "error" in description:
                records[name]["error"] = description["error"]
            else:
                records[name]["versions"] = description["versions"]
                answer = process.ask("profile", kind=kind, unit="step")
                records[name]["profile"][kind] = answer
                if kind == "private" and "error" in answer:
                    records[name]["error"] = answer["error"]
            process.close()
        logging.info("%s, %s: %s", case, name, records[name])
    return records


def measure(
    case: str,
    contestants: dict[str, tuple[str, str]],
    unit: str,
    records: Record,
    log: pathlib.Path,
) -> None:
    """Adds the rounds of measurements to the records of all that ran so far."""
    processes = {
        name: Process(framework, method, case, log / f"{framework}.log")
        for name, (framework, method) in contestants.items()
    }
    with contextlib.ExitStack() as stack:
        for process in processes.values():
            stack.callback(process.close)
        for number in range(_ROUNDS.value):
            names = [name for name in processes if "error" not in records[name]]
            shift = number % max(len(names), 1)
            for name in names[shift:] + names[:shift]:
                entry: Record = {"load": os.getloadavg()[0]}
                for kind in KINDS if number % 2 == 0 else reversed(KINDS):
                    answer = processes[name].ask(
                        "measure", kind=kind, unit=unit, count=_STEPS.value, seconds=_SECONDS.value
                    )
                    if "error" in answer:
                        records[name]["error"] = f"{kind}: {answer['error']}"
                        break
                    entry[kind] = answer["seconds"]
                else:
                    records[name]["rounds"].append(entry)
                processes[name].rest()
            logging.info("%s: round %d of %d done", case, number + 1, _ROUNDS.value)


def contestants_of(frameworks: list[str]) -> dict[str, tuple[str, str]]:
    """The framework and the method of each line of the table."""
    return {
        framework if framework == method else f"{framework}: {method}": (framework, method)
        for framework in frameworks
        for method in METHODS[framework]
    }


def machine() -> Record:
    """What the results were measured on."""
    cpu = re.search(r"model name\s*:\s*(.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return {
        "cpu": cpu.group(1) if cpu else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }


def run_case(case: str, frameworks: list[str], logs: pathlib.Path) -> Record:
    """All measurements of one case."""
    contestants = contestants_of(frameworks)
    if _FIT.value:
        records: Record = {name: {"rounds": []} for name in contestants}
        measure(case, contestants, "epoch", records, logs)
    else:
        records = profile(case, contestants, logs)
        measure(case, contestants, "step", records, logs)
    return {"machine": machine(), "records": records}


def main(argv: list[str]) -> None:
    """Runs the cases and writes the report after each."""
    del argv
    frameworks = [TFDP] if _FIT.value else _FRAMEWORKS.value
    for name, allowed in ((_CASES, cases.CASES), (_FRAMEWORKS, METHODS)):
        if unknown := set(name.value) - set(allowed):
            raise app.UsageError(
                f"`--{name.name}` must be among {list(allowed)}. Received: {sorted(unknown)}"
            )
    for framework in frameworks:
        if framework != TFDP:
            environments.prepare(framework)
    folder = pathlib.Path(_OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    results_file = folder / "results.json"
    results: Record = {"step": {}, "epoch": {}}
    if results_file.exists():
        results = json.loads(results_file.read_text())
    for case in _CASES.value:
        outcome = run_case(case, frameworks, folder)
        results["epoch" if _FIT.value else "step"][case] = outcome
        results_file.write_text(json.dumps(results, indent=1) + "\n")
        report.write(results, folder)


if __name__ == "__main__":
    app.run(main)
