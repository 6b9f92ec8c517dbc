"""Tests of `reproduce.py`: what it trains, what it keeps, what it says."""

import dataclasses
import json
import statistics
import types

import pytest
from absl import flags

import tfdp
from tfdp.scripts import experiments, reproduce, train, train_settings
from tfdp.scripts.command_line import UsageError

DIGITS = {"dataset": "digits", "epochs": 2, "target_epsilon": 3.0}
ROWS = {
    "Digits": (
        experiments.Row("plain", "plain", DIGITS, published="98.1"),
        experiments.Row(
            "accepted",
            "the papers' accounting",
            {
                **DIGITS,
                "screening": "noisy_threshold",
                "screening_charge": "accepted",
                "noise_multiplier": 4.0,
            },
        ),
    )
}


def flags_of(command):
    values = flags.FlagValues()
    train_settings.declare_flags(values)
    values(command[1:])
    return values


@pytest.fixture
def commands(monkeypatch):
    """Trains in this process, and lists the commands that would have been processes."""
    seen = []

    def run(command, **_):
        seen.append(command)
        try:
            train.train(flags_of(command))
        except UsageError:
            return types.SimpleNamespace(returncode=2)
        return types.SimpleNamespace(returncode=0)

    experiment = experiments.Experiment("Which is better?", ROWS, {"epochs": 1})
    monkeypatch.setitem(experiments.EXPERIMENTS, "test", experiment)
    monkeypatch.setattr(reproduce.subprocess, "run", run)
    return seen


def reproduced(*arguments):
    values = flags.FlagValues()
    reproduce.declare_flags(values)
    values(["reproduce.py", *arguments])
    reproduce.reproduce(values)


def test_rows_are_trained_once_with_every_seed_and_compared(
    commands, tmp_path, capsys, monkeypatch
):
    arguments = ("--experiment=test", "--seeds=2", f"--output_dir={tmp_path}")
    reproduced(*arguments)
    assert len(commands) == 4
    results = json.loads((tmp_path / "results.json").read_text())["Digits"]
    plain, accepted = results

    def records_of(name):
        folders = [tmp_path / "digits" / name / seed for seed in "01"]
        return [json.loads((folder / "result.json").read_text()) for folder in folders]

    records = records_of("plain")
    accuracies = [100 * record["test_accuracy"] for record in records]
    assert [record["seed"] for record in records] == [0, 1]
    assert plain["mean"] == pytest.approx(statistics.mean(accuracies))
    assert plain["stddev"] == pytest.approx(statistics.stdev(accuracies))
    assert plain["guaranteed"] and plain["epsilon"] == pytest.approx(3.0, rel=1e-3)
    # Every trial and every score, although only the updates that were kept were charged.
    assert not accepted["guaranteed"]
    epsilons, trials = [], []
    for record in records_of("accepted"):
        trials.append(int(record["history"]["trials"][-1]))
        assert trials[-1] >= record["steps"]
        ledger = tfdp.accounting.PrivacyLedger()
        for sigma in (4.0, 1.0):
            ledger.charge(tfdp.accounting.dp_sgd_event(sigma, 256 / 1437), trials[-1])
        epsilons.append(ledger.epsilon(1e-4))
    assert accepted["steps"] == statistics.mean(trials)
    assert accepted["epsilon"] == pytest.approx(statistics.mean(epsilons))
    table = (tmp_path / "table.md").read_text()
    assert f"| plain | {plain['mean']:.2f} ± {plain['stddev']:.2f} |" in table
    assert "| 98.1 |" in table and "(charged less)" in table and "Which is better?" in table
    assert (tmp_path / "accuracy.png").read_bytes().startswith(b"\x89PNG")
    assert table in capsys.readouterr().out

    files = sorted(tmp_path.glob("digits/*/*/model.keras"))
    before = [file.stat().st_mtime_ns for file in files]
    reproduced(*arguments[:1], "--seeds=3", "--rows=plain", *arguments[2:])
    assert len(commands) == 7
    assert [file.stat().st_mtime_ns for file in files] == before
    # What is there of other settings is not taken for these.
    row = dataclasses.replace(ROWS["Digits"][0], flags={**DIGITS, "learning_rate": 0.5})
    changed = experiments.Experiment("Which is better?", {"Digits": (row,)}, {})
    monkeypatch.setitem(experiments.EXPERIMENTS, "test", changed)
    with pytest.raises(SystemExit, match="1 of 1 trainings failed"):
        reproduced(*arguments[:1], "--seeds=1", *arguments[2:])


def test_a_training_that_fails_does_not_hide_the_others(commands, tmp_path, monkeypatch):
    bad = experiments.Row("bad", "bad", {**DIGITS, "learning_rate": -1})
    experiment = experiments.Experiment("?", {"Digits": (bad, ROWS["Digits"][0])}, {"epochs": 1})
    monkeypatch.setitem(experiments.EXPERIMENTS, "test", experiment)
    with pytest.raises(SystemExit, match="1 of 2 trainings failed"):
        reproduced("--experiment=test", "--seeds=1", "--quick", f"--output_dir={tmp_path}")
    assert "| plain |" in (tmp_path / "table.md").read_text()
    assert all("--epochs=1" in command for command in commands)


def test_what_cannot_be_reproduced_is_named(commands, capsys):
    with pytest.raises(UsageError, match="experiment=None"):
        reproduced()
    with pytest.raises(UsageError, match="rows=plain,none"):
        reproduced("--experiment=test", "--rows=plain,none")
    with pytest.raises(flags.IllegalFlagValueError, match="--seeds=0"):
        reproduced("--experiment=test", "--seeds=0")
    reproduced("--list")
    assert "test: Which is better?" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "row"),
    [
        pytest.param(name, row, id=f"{name}-{row.flags['dataset']}-{row.name}")
        for name, experiment in experiments.EXPERIMENTS.items()
        for rows in experiment.rows.values()
        for row in rows
    ],
)
def test_every_row_is_a_command_that_trains(name, row, tmp_path):
    quick = experiments.EXPERIMENTS[name].quick
    names = [
        other.name
        for other in sum(experiments.EXPERIMENTS[name].rows.values(), ())
        if other.flags["dataset"] == row.flags["dataset"]
    ]
    assert names.count(row.name) == 1
    for changed in ({}, quick):
        values = flags_of(reproduce.command_of(row, 0, tmp_path, changed))
        train_settings.check_flags(values)
