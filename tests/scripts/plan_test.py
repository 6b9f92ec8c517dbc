"""Tests of `plan.py`: what it prints and writes, and that the commands it prints train."""

import json
import re
import shlex

import pytest
from absl import flags

import tfdp
from tfdp.scripts import plan, train, train_settings
from tfdp.scripts.command_line import UsageError

DIGITS = ("--target_epsilon=8", "--delta=1e-4", "--num_examples=1437", "--max_batch_size=256")


def planned(*arguments):
    values = flags.FlagValues()
    plan.declare_flags(values)
    values(["plan.py", *arguments])
    plan.plan(values)


def test_the_commands_that_are_printed_train(tmp_path, capsys):
    planned(*DIGITS, "--dataset=digits", "--simulate_at=32")
    commands = re.findall(r"tfdp-train (.*)", capsys.readouterr().out)
    assert len(commands) == 2
    records = {}
    for name, command in zip(("simulated", "private"), commands, strict=True):
        values = flags.FlagValues()
        train_settings.declare_flags(values)
        values(
            ["train.py", *shlex.split(command), "--verbose=0", f"--output_dir={tmp_path / name}"]
        )
        train.train(values)
        records[name] = json.loads((tmp_path / name / "result.json").read_text())
    simulated, private = records["simulated"], records["private"]
    reference = tfdp.tan.plan(8.0, 1e-4, 1437, max_batch_size=256).recommended
    assert private["expected_batch_size"] == 256 and private["steps"] == simulated["steps"]
    assert private["steps"] == pytest.approx(reference.steps, rel=0.05)
    assert private["noise_multiplier"] == pytest.approx(2.5, rel=0.05)
    assert private["epsilon"]["rdp"] == pytest.approx(8.0, rel=0.01)
    assert simulated["expected_batch_size"] == 32
    assert simulated["noise_multiplier"] == pytest.approx(private["noise_multiplier"] / 8)
    # What is not private says so everywhere.
    assert simulated["epsilon"] == {"rdp": None, "pld": None}
    assert (tmp_path / "simulated" / "simulated_not_private.keras").exists()
    assert not (tmp_path / "simulated" / "model.keras").exists()
    statement = (tmp_path / "simulated" / "privacy_statement.txt").read_text()
    assert statement.startswith("NOT PRIVATE: simulated: not private")
    assert (tmp_path / "private" / "model.keras").exists()


def test_a_plan_is_written_as_json_text_and_picture(tmp_path, capsys):
    planned(*DIGITS, f"--output_dir={tmp_path}", "--json", "--compute_budget=1000000")
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "plan.json").read_text())
    assert "-> " in (tmp_path / "plan.txt").read_text()
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "target_epsilon=None"),
        (DIGITS[:2], "num_examples=None"),
        (("--target_epsilon=-1", *DIGITS[1:]), "target_epsilon=-1"),
        ((*DIGITS, "--compute_budget=5"), "compute_budget=5"),
    ],
)
def test_what_cannot_be_planned_is_named(arguments, message):
    with pytest.raises(UsageError, match=message):
        planned(*arguments)
