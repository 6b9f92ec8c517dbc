"""Search on simulated runs: what is tried, what is kept, what is said."""

import csv
import json
import pathlib

import pytest
import simulated_training

from tfdp import simulation

SPACE = {"rate": [1, 2, 3], "kind": ["a", "b"]}


def runs_in(folder):
    return sorted(len(path.read_text()) for path in pathlib.Path(folder).glob("*/runs"))


def test_all_combinations_are_tried_once_and_the_best_is_found(tmp_path, capsys):
    found = simulation.search(simulated_training.train, SPACE, tmp_path, workers=2)
    assert found.best.parameters == {"rate": 2, "kind": "a"} and found.best.score == 2.0
    assert [trial.score for trial in found.trials[:4]] == [2.0, 1.5, 1.0, 0.5]
    assert runs_in(tmp_path) == [1] * 6
    # A trial that failed says why, and ends nothing.
    failed = json.loads((pathlib.Path(found.trials[-1].folder) / "trial.json").read_text())
    assert failed["score"] is None and "too high" in failed["error"]
    best = json.loads((tmp_path / "best.json").read_text())
    assert best["parameters"] == {"rate": 2, "kind": "a"}
    with open(tmp_path / "trials.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 and rows[0]["rate"] == "2"
    assert best["note"] == rows[0]["note"] == "simulated: not private"
    assert (tmp_path / "search.png").read_bytes().startswith(b"\x89PNG")
    assert "[6/6]" in capsys.readouterr().out

    # What is there is not tried again; what is missing is.
    (pathlib.Path(found.best.folder) / "trial.json").unlink()
    again = simulation.search(
        simulated_training.train, {**SPACE, "rate": [1, 2, 3, 4]}, tmp_path, workers=2
    )
    assert again.best.parameters == {"rate": 4, "kind": "a"}
    assert runs_in(tmp_path) == [1] * 7 + [2]


def test_random_points_are_the_same_for_a_seed():
    space = {"rate": simulation.LogUniform(0.01, 100.0), "kind": ["a", "b"]}
    points = simulation._points(space, 200, seed=3)
    assert points == simulation._points(space, 200, seed=3)
    assert points[:50] == simulation._points(space, 50, seed=3)
    assert points != simulation._points(space, 200, seed=4)
    rates = [point["rate"] for point in points]
    assert 0.01 <= min(rates) < 0.1 and 10 < max(rates) <= 100
    assert 60 < sum(rate < 1 for rate in rates) < 140
    assert {point["kind"] for point in points} == {"a", "b"}


def test_a_search_in_which_everything_fails_says_where_to_look(tmp_path):
    with pytest.raises(RuntimeError, match="Every trial failed"):
        simulation.search(simulated_training.train, {"rate": [3], "kind": ["a"]}, tmp_path)


@pytest.mark.parametrize(
    ("space", "trials", "message"),
    [
        ({}, None, r"space=\{\}"),
        ({"rate": 1.0}, None, "'rate': 1.0"),
        ({"rate": "abc"}, None, "'rate': 'abc'"),
        ({"rate": []}, None, r"'rate': \[\]"),
        ({"rate": simulation.LogUniform(1, 2)}, None, "trials=None"),
    ],
)
def test_spaces_that_cannot_be_searched_are_named(tmp_path, space, trials, message):
    with pytest.raises(ValueError, match=message):
        simulation.search(simulated_training.train, space, tmp_path, trials=trials)
