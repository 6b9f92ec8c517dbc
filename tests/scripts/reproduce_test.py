"""Tests of `reproduce.py`: what it trains, what it keeps, what it says."""

import dataclasses
import json
import pathlib
import statistics
import types

import pytest
from absl import flags

import tfdp
from tfdp.scripts import experiments, reproduce, synthesize, train, train_settings, whole_files
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


def flags_of(command, program=train_settings):
    values = flags.FlagValues()
    program.declare_flags(values)
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
    assert "| trials |" in table and f"| {plain['epsilon_pld']:.2f} |" in table
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
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
    with pytest.raises(SystemExit, match="1 of 1 runs failed"):
        reproduced(*arguments[:1], "--seeds=1", *arguments[2:])


def test_a_training_that_fails_does_not_hide_the_others(commands, tmp_path, monkeypatch):
    bad = experiments.Row("bad", "bad", {**DIGITS, "learning_rate": -1})
    experiment = experiments.Experiment("?", {"Digits": (bad, ROWS["Digits"][0])}, {"epochs": 1})
    monkeypatch.setitem(experiments.EXPERIMENTS, "test", experiment)
    with pytest.raises(SystemExit, match="1 of 2 runs failed"):
        reproduced("--experiment=test", "--seeds=1", "--quick", f"--output_dir={tmp_path}")
    table = (tmp_path / "table.md").read_text()
    assert "Digits (quick check, with other settings)" in table  # No figures of the row's settings.
    assert "| plain |" in table and "| trials |" not in table
    assert all("--epochs=1" in command for command in commands)


def test_activations_are_drawn_where_they_were_measured(commands, tmp_path, monkeypatch):
    plainly = {"dataset": "digits", "epochs": 2, "noise_multiplier": 0.0, "activation_norms": True}
    measured = experiments.Row("measured", "measured", plainly)
    experiment = experiments.Experiment("?", {"Digits": (ROWS["Digits"][0], measured)}, {})
    monkeypatch.setitem(experiments.EXPERIMENTS, "test", experiment)
    reproduced("--experiment=test", "--seeds=1", "--rows=plain", f"--output_dir={tmp_path}")
    picture = tmp_path / "activations.png"
    assert not picture.exists()
    reproduced("--experiment=test", "--seeds=1", f"--output_dir={tmp_path}")
    assert picture.read_bytes().startswith(b"\x89PNG")
    plain, found = json.loads((tmp_path / "results.json").read_text())["Digits"]
    assert not plain["activation_norms"]
    assert [len(norms) for norms in found["activation_norms"]["activation_norm_0"]] == [2]
    assert plain["not_private"] is None and plain["epsilon"] > 0
    assert (found["not_private"], found["epsilon"]) == ("no noise", None)
    assert "| no noise: not private |" in (tmp_path / "table.md").read_text()


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
        pytest.param(name, row, id=f"{name}-{row.dataset}-{row.name}")
        for name, experiment in experiments.EXPERIMENTS.items()
        for rows in experiment.rows.values()
        for row in rows
    ],
)
def test_every_row_is_a_command_that_works(name, row, tmp_path):
    experiment = experiments.EXPERIMENTS[name]
    rows = [other for others in experiment.rows.values() for other in others]
    for other in (row.after, *rows):  # What shares a folder is the same run.
        if other is not None and (other.dataset, other.name) == (row.dataset, row.name):
            assert other.flags == row.flags
    for changed in ({}, experiment.quick):
        command = reproduce.command_of(experiment.program, row, 0, tmp_path, changed)
        if experiment.program == "train":
            train_settings.check_flags(flags_of(command))
        else:
            flags_of(command, synthesize)


def test_activations_are_compared_with_nothing_else_changed():
    def but_activation(row):
        return {name: value for name, value in row.flags.items() if name != "activation"}

    pairs = 0
    for rows in experiments.EXPERIMENTS["accuracy"].rows.values():
        by_name = {row.name: row for row in rows}
        for name, row in by_name.items():
            if row.flags.get("activation") == "relu":
                other = name.replace("scattering_relu", "scattering_cnn").replace("relu", "tanh")
                assert but_activation(row) == but_activation(by_name[other])
                pairs += 1
    assert pairs >= 12
    for title, rows in experiments.EXPERIMENTS["tempered_sigmoids"].rows.items():
        assert title.endswith("simulated")
        for rate in {row.x for row in rows}:
            equal = [row for row in rows if row.x == rate]
            assert len({row.flags["activation"] for row in equal}) == len(equal) == 9
            assert all(but_activation(row) == but_activation(equal[0]) for row in equal)
            assert equal[0].flags["simulate_at"] and equal[0].flags["validation_examples"]


def test_nothing_is_run_after_a_pretraining_that_fails(tmp_path, monkeypatch):
    first = experiments.Row("pretrained", "pre-training", {"sensitive": "private"})
    row = dataclasses.replace(first, name="a", after=first)
    experiment = experiments.Experiment("?", {"Main": (row,)}, {}, program="synthesize")
    monkeypatch.setitem(experiments.EXPERIMENTS, "test", experiment)
    seen = []

    def fail(command, **_):
        seen.append(command)
        return types.SimpleNamespace(returncode=1)

    monkeypatch.setattr(reproduce.subprocess, "run", fail)
    with pytest.raises(SystemExit, match="1 of 4 runs failed"):
        reproduced("--experiment=test", f"--output_dir={tmp_path}")
    assert len(seen) == 1


def test_runs_of_synthesis_come_after_one_pretraining(tmp_path, monkeypatch):
    data = {"sensitive": "private"}
    first = experiments.Row("pretrained", "pre-training", {**data, "stage": "pretrain"})
    rows = [
        experiments.Row(name, name, {**data, "fraction": x / 100}, after=first, x=x, seeds=seeds)
        for name, x, seeds in (("a", 10.0, None), ("b", 20.0, 1))
    ]
    experiment = experiments.Experiment(
        "How many?", {"Main": (rows[0],), "Curve": tuple(rows)}, {}, program="synthesize"
    )
    monkeypatch.setitem(experiments.EXPERIMENTS, "test", experiment)
    seen = []

    def run(command, **_):
        values = flags_of(command, synthesize)
        seen.append((values.stage[0], values.fraction, values.seed, values.pretrained))
        record = {"seconds": {"pretrain": 1.0, "select": 2.0, "finetune": 3.0}}
        if values.stage != ["pretrain"]:
            record |= {
                "settings": {"delta": 1e-5},
                "downstream": {"accuracy": values.fraction + values.seed / 100},
                "frechet": {"distance": 5.0, "extractor": "pixels"},
                "frechet_of_test_images": 0.1,
                "precision_recall": {"precision": 0.5, "recall": 0.25},
                "copies": {"auc": 0.5, "detected": 0.0},
                "selected": ["x"],
                "trainable_parameters": 10,
                "epsilon": {"rdp": 1.0, "pld": 0.9},
                "epsilon_of_selection": 0.1,
                "noise_multiplier": 2.0,
                "peak_memory_mib": 100.0,
            }
        path = f"{values.output_dir}/result.json"
        with whole_files.replacing(path) as partial, open(partial, "w") as file:
            json.dump(record, file)  # Results are read while the next run goes on.
        return types.SimpleNamespace(returncode=0)

    monkeypatch.setattr(reproduce.subprocess, "run", run)
    reproduced("--experiment=test", "--seeds=2", f"--output_dir={tmp_path}")
    pretrained = str(tmp_path / "private" / "pretrained" / "0")
    assert seen[0] == ("pretrain", 0.3, 0, None)
    runs = {(0.1, 0), (0.2, 0), (0.1, 1)}
    assert {call[1:3] for call in seen[1:]} == runs and len(seen) == 4
    assert {call[3] for call in seen[1:]} == {pretrained}
    table = (tmp_path / "table.md").read_text()
    assert "| a | 10.50 ± 0.71 | 5.00 ± 0.00 | 0.50 / 0.25 | 10 | 1.00, 0.100 | 2 + 3 |" in table
    assert "| b | 20.00 | 5.00 |" in table
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")


RESULTS = sorted(pathlib.Path(__file__, "../../../results").resolve().glob("*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_results_can_be_read_by_any_parser(path):
    assert json.loads(path.read_text(), parse_constant=pytest.fail)
