"""Tests of `simulate.py`, and of training what it found."""

import json

import pytest
from absl import flags

from tfdp.scripts import simulate, train, train_settings
from tfdp.scripts.command_line import UsageError


def simulated(*arguments):
    values = flags.FlagValues()
    simulate.declare_flags(values)
    values(["simulate.py", *arguments])
    simulate.simulate(values)


@pytest.mark.slow
def test_what_a_search_finds_is_trained_privately(tmp_path, capsys):
    reference = ("--dataset=digits", "--batch_size=256", "--epochs=4", "--target_epsilon=6")
    simulated(
        *reference,
        *("--simulate_at=32", "--search=learning_rate=0.001,1", "--validation_examples=300"),
        *(f"--output_dir={tmp_path / 'search'}", "--seed=1"),
    )
    assert "'learning_rate': 1" in capsys.readouterr().out
    (trial,) = (tmp_path / "search").glob("learning_rate=1")
    record = json.loads((trial / "result.json").read_text())
    assert record["expected_batch_size"] == 32 and record["epsilon"]["rdp"] is None
    assert (record["train_examples"], record["test_examples"]) == (1137, 300)
    assert (trial / "privacy_statement.txt").read_text().startswith("NOT PRIVATE: simulated")

    with pytest.raises(UsageError, match="with other flags.*output_dir="):
        simulated(
            *("--dataset=digits", "--batch_size=128", "--simulate_at=32"),
            *("--search=learning_rate=1", f"--output_dir={tmp_path / 'search'}"),
        )

    values = flags.FlagValues()
    train_settings.declare_flags(values)
    values(
        [
            "train.py",
            *(f"--from_simulation={tmp_path / 'search'}", "--verbose=0", "--epochs=3"),
            f"--output_dir={tmp_path / 'private'}",
        ]
    )
    report = train.train(values)
    assert (report.learning_rate, report.expected_batch_size, report.seed) == (1.0, 256, 1)
    assert report.epochs == 3  # What is given takes precedence.
    assert report.train_examples == 1437 and report.test_examples == 360
    assert report.epsilon["rdp"] == pytest.approx(6.0, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "simulate_at"),
        (("--simulate_at=8",), r"search=\[\]"),
        (("--simulate_at=8", "--search=epochs=1,2"), "search=epochs=1,2"),
        (("--simulate_at=8", "--search=momentum"), "search=momentum"),
        (("--simulate_at=8", "--search=momentum=0.1..0.9"), "search=momentum=0.1..0.9"),
        (("--simulate_at=8", "--search=learning_rate=2..1", "--trials=2"), "learning_rate=2..1"),
        (("--simulate_at=0", "--search=momentum=0.9"), "simulate_at=0"),
    ],
)
def test_what_cannot_be_searched_is_refused_before_any_run(tmp_path, arguments, message):
    with pytest.raises(UsageError, match=message):
        simulated(*arguments, f"--output_dir={tmp_path}")
    assert not list(tmp_path.glob("*/*"))


def test_a_folder_without_results_is_named(tmp_path):
    values = flags.FlagValues()
    train_settings.declare_flags(values)
    values(["train.py", f"--from_simulation={tmp_path}", "--dataset=digits"])
    with pytest.raises(UsageError, match=f"from_simulation='{tmp_path}'"):
        train.train(values)
