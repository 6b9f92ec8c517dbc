"""Tests of `audit.py` as a user runs it."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from absl import flags

import tfdp
from tfdp.noise import GaussianNoise
from tfdp.scripts import audit, image_datasets, train, train_report, train_settings
from tfdp.scripts.command_line import UsageError

PROGRAM = pathlib.Path(audit.__file__)


def train_with(*arguments):
    values = flags.FlagValues()
    train_settings.declare_flags(values)
    values(["train.py", "--verbose=0", *arguments])
    return train.train(values)


def audit_with(*arguments):
    values = flags.FlagValues()
    audit.declare_flags(values)
    values(["audit.py", "--verbose=0", *arguments])
    return audit.audit(values)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished training on digits, of which the last 37 training images were held out."""
    folder = tmp_path_factory.mktemp("trained")
    train_with(
        *("--epochs=3", "--target_epsilon=2", "--validation_examples=37", "--ema_decay=0.9"),
        f"--output_dir={folder}",
    )
    return folder


def test_the_released_model_is_attacked_with_the_images_it_was_trained_on(trained, tmp_path):
    found = audit_with(f"--from_training={trained}", f"--output_dir={tmp_path}")
    assert found.one_run is None
    data = image_datasets.load("digits")
    model = keras.saving.load_model(trained / "model.keras")
    member_losses, other_losses = (
        tfdp.auditing.example_losses(model, images.x, images.y)
        for images in (data.train.split(1400)[0], data.test)
    )
    expected = tfdp.auditing.membership_attack(member_losses, other_losses)
    assert found.membership.auc == pytest.approx(expected.auc, abs=1e-4)
    assert (found.membership.members, found.membership.others) == (1400, 360)
    assert [one.label for one in found.membership.classes] == list(range(10))
    record = json.loads((tmp_path / "audit.json").read_text())
    assert record["membership"]["auc"] == found.membership.auc and record["one_run"] is None
    assert "not protected" in record["note"] and record["epsilon"]["rdp"] <= 2
    assert (tmp_path / "audit.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("canary", audit.CANARIES)
def test_the_training_is_repeated_with_canaries(canary, trained, tmp_path, capsys):
    found = audit_with(
        *(f"--from_training={trained}", f"--output_dir={tmp_path}"),
        *("--canaries=200", f"--canary={canary}", "--confidence=0.9"),
    )
    assert not found.one_run.contradicts_claim
    assert (found.one_run.canaries, found.one_run.confidence) == (200, 0.9)
    # Images that are inserted make the sampling probability, and so the claim, a little smaller.
    least = 1.99 if canary == "gradient" else 1.8
    assert least < found.one_run.claimed_epsilon <= 2
    record = json.loads((tmp_path / "audit.json").read_text())
    assert record["canary"] == canary
    assert record["one_run"]["epsilon_lower_bound"] == found.one_run.epsilon_lower_bound
    assert "one-run audit: epsilon is at least" in capsys.readouterr().out
    assert len(found.picture().subfigs) == 2


def test_a_training_that_adds_no_noise_is_caught(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(GaussianNoise, "add", lambda self, tensors, *_: list(tensors))
    found = audit_with(
        *(f"--from_training={trained}", f"--output_dir={tmp_path}"),
        *("--canaries=600", "--canary=gradient"),
    )
    assert found.one_run.contradicts_claim


def test_the_recorded_settings_are_those_of_the_run(trained):
    report = train_report.read(trained)
    settings = train_settings.recorded(report.settings, physical_batch_size=None, verbose=0)
    assert (settings.batch_size, settings.epochs, settings.ema_decay) == (256, 3, 0.9)
    assert settings.noise_multiplier == report.noise_multiplier
    assert train_settings.activation_text(settings.activation) == report.activation
    data = image_datasets.load("digits")
    again = train_settings.to_repeat(settings, data, report.noise_multiplier)
    assert {**again, "dataset": None} == {**report.settings, "dataset": None}


def test_a_usage_error_is_one_line_and_status_2(tmp_path):
    done = subprocess.run(
        [sys.executable, str(PROGRAM), f"--from_training={tmp_path}"],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        timeout=300,
    )
    assert done.returncode == 2 and done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("audit.py: --from_training holds no result.json")
    assert "Traceback" not in done.stderr and os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--canaries=1",), "canaries=1"),
        (("--canaries=-5",), "canaries=-5"),
        (("--confidence=1",), "confidence=1"),
        (("--canaries=361",), "at most 360, the test images.*canaries=361"),
        (("--canaries=10000000", "--canary=gradient"), "trainable weights.*canaries=10000000"),
    ],
)
def test_what_cannot_be_audited_is_refused(trained, tmp_path, arguments, message):
    with pytest.raises(UsageError, match=message):
        audit_with(f"--from_training={trained}", f"--output_dir={tmp_path}", *arguments)
    assert list(tmp_path.iterdir()) == []


def change_record(trained, folder, **changes):
    """A copy of the training with another record."""
    shutil.copytree(trained, folder)
    record = json.loads((folder / "result.json").read_text())
    record["settings"] |= changes.pop("settings", {})
    (folder / "result.json").write_text(json.dumps(record | changes))
    return folder


def test_a_record_of_something_else_is_refused(trained, tmp_path):
    folder = change_record(trained, tmp_path / "unknown", another_field=1)
    with pytest.raises(UsageError, match="none of this version of train.py.*from_training="):
        audit_with(f"--from_training={folder}")
    folder = change_record(trained, tmp_path / "larger", train_examples=1438)
    with pytest.raises(UsageError, match="had 1438 images, the data set 'digits' has 1437"):
        audit_with(f"--from_training={folder}")
    folder = change_record(trained, tmp_path / "simulated", settings={"simulate_at": 8})
    with pytest.raises(UsageError, match="--simulate_at is not repeated.*canaries=2"):
        audit_with(f"--from_training={folder}", "--canaries=2")
    folder = change_record(trained, tmp_path / "features", settings={"features": "scattering"})
    with pytest.raises(UsageError, match="--features is not repeated.*canaries=2"):
        audit_with(f"--from_training={folder}", "--canaries=2")
    folder = change_record(trained, tmp_path / "empty")
    (folder / "model.keras").write_bytes(np.zeros(10, "uint8").tobytes())
    with pytest.raises(UsageError, match="cannot be loaded.*from_training="):
        audit_with(f"--from_training={folder}")
