"""Memory and speed of one private step, by the size of its logical batch.

    python scripts/benchmark/logical_batch.py --output_dir=runs/logical_batch
    python scripts/benchmark/logical_batch.py --case=wrn_16_4_16 --sizes=64,512,4096

A logical batch is cut into physical ones inside the compiled step, so that its size should move
neither. Each size is measured in a fresh process, on a case of the benchmark: memory is what the
process comes to hold beyond model and data in the second step, of which the time is taken, too.
Writes `logical_batch.json`, `logical_batch.md` and `logical_batch.png`.
"""

import json
import os
import pathlib
import subprocess
import sys
import time

import matplotlib
from absl import app, flags

_CASE = flags.DEFINE_string("case", "mnist_cnn_256", "The network, by a case of the benchmark.")
_SIZES = flags.DEFINE_list("sizes", [4**k for k in range(4, 9)], "Logical batch sizes.")
_OUTPUT = flags.DEFINE_string("output_dir", "runs/logical_batch", "Folder of the results.")
_MEASURE = flags.DEFINE_integer("measure", None, "Measure this size, and print it as JSON.")


def measure(size: int) -> dict[str, float]:
    """One size, in this process."""
    import dataclasses

    import cases
    import tensorflow as tf
    from frameworks import tfdp as framework
    from memory import HighWater, give_back_freed, resident_mib

    case = dataclasses.replace(cases.CASES[_CASE.value], batch_size=size)
    private = framework.private_model(case)
    give_back_freed()
    before = resident_mib()
    x, y = map(tf.constant, case.batch())
    data = (x.numpy().nbytes + y.numpy().nbytes) / 2**20
    give_back_freed()  # Else a step would take what making the data has left behind.
    private.train_on_batch(x, y)
    with HighWater() as high_water:
        start = time.perf_counter()
        private.train_on_batch(x, y)
        seconds = time.perf_counter() - start
    return {
        "size": size,
        "physical": private.examples_in_memory,
        "peak_mib": high_water.mib - before - data,
        "data_mib": data,
        "seconds": seconds,
        "examples_per_second": size / seconds,
        "load": os.getloadavg()[0],
    }


def draw(results: list[dict[str, float]], folder: pathlib.Path) -> None:
    """The table and the picture."""
    lines = ["| logical batch | peak MiB | seconds | examples/s |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {r['size']:,} | {r['peak_mib']:,.0f} | {r['seconds']:.3g} | "
        f"{r['examples_per_second']:,.0f} |"
        for r in results
    ]
    (folder / "logical_batch.md").write_text("\n".join(lines) + "\n")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(13, 3.4), layout="constrained")
    sizes = [r["size"] for r in results]
    for axis, name, title in (
        (axes[0], "peak_mib", "Memory of a private step, MiB"),
        (axes[1], "seconds", "Seconds of a private step"),
        (axes[2], "examples_per_second", "Private examples per second"),
    ):
        axis.plot(sizes, [r[name] for r in results], marker="o")
        axis.set(xscale="log", title=title, xlabel="logical batch")
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        if name == "seconds":
            axis.set_yscale("log")  # A straight line at 45 degrees is proportional to the batch.
        else:
            axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
    figure.savefig(folder / "logical_batch.png", dpi=120)


def main(argv: list[str]) -> None:
    """Measures each size in a process of its own."""
    if _MEASURE.value is not None:
        print(json.dumps(measure(_MEASURE.value)))
        return
    folder = pathlib.Path(_OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    for size in map(int, _SIZES.value):
        done = subprocess.run(
            [sys.executable, argv[0], f"--measure={size}", f"--case={_CASE.value}"],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        results.append(json.loads(done.stdout.splitlines()[-1]))
        print(results[-1])
        (folder / "logical_batch.json").write_text(json.dumps(results, indent=1) + "\n")
    draw(results, folder)


if __name__ == "__main__":
    app.run(main)
