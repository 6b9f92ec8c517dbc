"""Tests of `train.py --screening`."""

import json

import numpy as np
import pytest
from absl import flags

import tfdp
from tfdp.scripts import image_datasets, train, train_screening, train_settings
from tfdp.scripts.command_line import UsageError
from tfdp.scripts.images import ArrayImages


def train_with(folder, *arguments):
    values = flags.FlagValues()
    train_settings.declare_flags(values)
    values(["train.py", f"--output_dir={folder}", "--verbose=0", "--seed=1", *arguments])
    train.train(values)
    return json.loads((folder / "result.json").read_text())


def test_annealing_trains_on_what_is_not_public_and_charges_every_trial(tmp_path):
    record = train_with(
        tmp_path,
        "--screening=annealing",
        "--public_examples=137",
        "--epochs=4",
        "--max_rejections=1",
    )
    assert record["train_examples"] == 1300
    assert record["history"]["trials"][-1] == record["steps"]
    assert 0.5 <= record["history"]["acceptance_rate"][-1] <= 1.0
    by_hand = tfdp.accounting.epsilon(
        record["noise_multiplier"], 256 / 1300, record["steps"], record["delta"]
    )
    assert record["epsilon"]["rdp"] == pytest.approx(by_hand)
    assert record["test_accuracy"] > 0.5


def test_scores_are_part_of_the_budget(tmp_path):
    record = train_with(
        tmp_path, "--screening=noisy_threshold", "--epochs=4", "--score_difference=examples"
    )
    ledger = tfdp.accounting.PrivacyLedger()
    q = 256 / record["train_examples"]
    for sigma in (record["noise_multiplier"], 1.0):
        ledger.charge(tfdp.accounting.dp_sgd_event(sigma, q), record["steps"])
    assert record["epsilon"]["rdp"] == pytest.approx(ledger.epsilon(record["delta"]), rel=1e-6)
    assert 7.98 <= record["epsilon"]["rdp"] <= 8.0
    assert "screening score" in (tmp_path / "privacy_statement.txt").read_text()


def test_epochs_and_the_first_decisions_can_be_screened_alone(tmp_path):
    flags = ["--screening=annealing", "--public_examples=100", "--epochs=3"]
    record = train_with(tmp_path, *flags, "--screening_each=epoch", "--screening_decisions=2")
    assert record["history"]["trials"] == [1, 2, 2]
    assert 0.99 * 8 < record["epsilon"]["rdp"] <= 8
    with pytest.raises(UsageError, match="screening_decisions=0"):
        train_with(tmp_path, *flags, "--screening_decisions=0")
    with pytest.raises(UsageError, match="screening_each=epoch"):
        train_with(
            tmp_path,
            *flags,
            *("--screening_each=epoch", "--screening_charge=accepted", "--noise_multiplier=1"),
        )


def test_the_papers_accounting_has_no_epsilon(tmp_path):
    record = train_with(
        tmp_path,
        "--screening=annealing",
        "--screening_charge=accepted",
        "--noise_multiplier=2",
        "--target_epsilon=3",
        "--epochs=3",
    )
    assert record["epsilon"] == {"rdp": None, "pld": None}
    assert record["history"]["epsilon"][-1] <= 3.0
    text = " ".join((tmp_path / "privacy_statement.txt").read_text().split())
    assert text.startswith("NOT PRIVATE: reproduction, not a DP guarantee")


def test_a_resumed_run_goes_on_with_the_rule(tmp_path, monkeypatch):
    command = ("--screening=annealing", "--epochs=4")
    counts = []
    original = tfdp.callbacks.UpdateScreening.on_epoch_end

    def stop_after_two(self, epoch, logs=None):
        original(self, epoch, logs)
        counts.append(int(self.rule.state["trials"]))
        if len(counts) == 3:  # Before the third epoch's checkpoint.
            raise KeyboardInterrupt

    monkeypatch.setattr(tfdp.callbacks.UpdateScreening, "on_epoch_end", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        train_with(tmp_path, *command)
    record = train_with(tmp_path, *command, "--resume")
    assert counts[:3] == [5, 10, 15] and counts[3:] == [15, 20]
    assert record["history"]["trials"] == [5, 10, 15, 20]
    with pytest.raises(UsageError, match="max_rejections=5"):
        train_with(tmp_path, *command, "--resume", "--max_rejections=3")


def test_public_images_must_leave_some_to_train_on():
    images = ArrayImages(np.zeros((5, 4, 4, 1)), np.zeros(5))
    data = image_datasets.ImageData("tiny", images, images, 10)
    values = flags.FlagValues()
    train_settings.declare_flags(values)
    values(["train.py", "--screening=annealing", "--public_examples=5"])
    with pytest.raises(UsageError, match="public_examples=5$"):
        train_screening.set_public_apart(train_screening.settle(values), data)
