"""Stands in for a simulated run; a module of its own, so that other processes can import it."""

import pathlib


def train(parameters, folder):
    runs = pathlib.Path(folder) / "runs"
    runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
    if parameters["rate"] == 3:
        raise ValueError("the rate is too high")
    return parameters["rate"] - (parameters["kind"] == "b") / 2
