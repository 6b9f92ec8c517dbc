"""Tests of the program `account`."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest
from absl import flags

from tfdp import accounting
from tfdp.scripts import command_line

SCRIPT = pathlib.Path(__file__).parents[2] / "scripts" / "account.py"
SAMPLING = ["--sampling_probability=0.01"]
RUN = [*SAMPLING, "--steps=100", "--delta=1e-5"]


@pytest.fixture(scope="module")
def account():
    spec = importlib.util.spec_from_file_location("account_under_test", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def answer(account):
    def run(*arguments: str) -> str:
        values = flags.FlagValues()
        account.define_flags(values)
        values(["account", *arguments])
        return account.answer(values)

    return run


def test_epsilon_of_given_noise(answer):
    text = answer("--noise_multiplier=1.1", *RUN)
    rdp, pld = (accounting.epsilon(1.1, 0.01, 100, 1e-5, name) for name in ("rdp", "pld"))
    assert f"epsilon (RDP): {rdp:.6g}\nepsilon (PLD): {pld:.6g}\n\nPrivacy statement" in text


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_noise_for_a_given_epsilon(answer, accountant):
    data = json.loads(answer("--target_epsilon=2", f"--accountant={accountant}", "--json", *RUN))
    assert 1.99 <= data["epsilon"][accountant] <= 2.0
    assert data["calibrated_by"] == accountant
    assert data["statement"]["releases"][0]["steps"] == 100
    text = answer("--target_epsilon=2", f"--accountant={accountant}", *RUN)
    first = text.splitlines()[0]
    assert first.endswith(f"(by {accountant.upper()})")
    assert float(first.split()[2]) >= data["noise_multiplier"]


def test_batch_size_and_epochs(answer):
    data = json.loads(
        answer(
            "--noise_multiplier=1.23",
            "--batch_size=512",
            "--num_examples=60000",
            "--epochs=40",
            "--delta=1e-4",
            "--json",
        )
    )
    assert data["sampling_probability"] == 512 / 60_000
    assert data["steps"] == 4688  # 4687.5 rounded up
    assert data["statement"]["warnings"]
    assert data["calibrated_by"] is None


def test_whole_epochs_are_not_rounded_up(answer):
    text = answer(
        "--noise_multiplier=1", "--sampling_probability=0.1", "--epochs=3", "--delta=1e-5", "--json"
    )
    assert json.loads(text)["steps"] == 30


def test_no_noise(answer):
    data = json.loads(answer("--noise_multiplier=0", "--json", *RUN))
    assert data["epsilon"] == {"rdp": "inf", "pld": "inf"}
    assert data["statement"]["is_private"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either --noise_multiplier or --target_epsilon. Received: neither"),
        (["--noise_multiplier=1", "--target_epsilon=2", *RUN], "either --noise_multiplier"),
        (["--noise_multiplier=1", "--batch_size=3", *RUN], "either --sampling_probability"),
        (["--noise_multiplier=1", "--steps=1", "--delta=1e-5"], "either --sampling_probability"),
        (["--noise_multiplier=1", "--epochs=1", *RUN], "either --steps or --epochs"),
        (["--noise_multiplier=1", *SAMPLING, "--delta=1e-5"], "either --steps or --epochs"),
        (["--noise_multiplier=1", *SAMPLING, "--steps=1"], "Give --delta"),
        (
            ["--noise_multiplier=1", "--batch_size=3", "--steps=1", "--delta=1e-5"],
            "Give --num_examples with --batch_size",
        ),
        (
            [
                "--noise_multiplier=1",
                "--batch_size=30",
                "--num_examples=9",
                "--steps=1",
                "--delta=.1",
            ],
            "Received: batch_size=30, num_examples=9",
        ),
        (["--noise_multiplier=1", "--num_examples=0", *RUN], "Received: num_examples=0"),
        (["--noise_multiplier=-1", *RUN], "Received: noise_multiplier=-1.0"),
        (["--noise_multiplier=nan", *RUN], "Received: noise_multiplier=nan"),
        (["--target_epsilon=0", *RUN], "Received: target_epsilon=0.0"),
        (["--noise_multiplier=1", *SAMPLING, "--steps=-1", "--delta=.1"], "Received: steps=-1"),
        (["--noise_multiplier=1", *SAMPLING, "--steps=1", "--delta=2"], "Received: delta=2.0"),
        (["--noise_multiplier=1", *SAMPLING, "--epochs=-1", "--delta=.1"], "Received: epochs=-1"),
        (
            ["--noise_multiplier=1", "--sampling_probability=0", "--epochs=1", "--delta=.1"],
            "Received: sampling_probability=0",
        ),
        (["--noise_multiplier=1", "--accountant=gdp", *RUN], "Received: accountant=gdp"),
    ],
)
def test_bad_flags(answer, arguments, message):
    with pytest.raises(command_line.UsageError) as caught:
        answer(*arguments)
    assert message in str(caught.value)


def test_program_ends_with_one_line_on_bad_flags():
    root = str(SCRIPT.parents[1])
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), root]))
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--noise_multiplier=1.1", "--target_epsilon=2", *RUN],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 2
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("account.py: ")]
    assert lines == [
        "account.py: Give either --noise_multiplier or --target_epsilon. "
        "Received: --noise_multiplier=1.1 --target_epsilon=2.0"
    ]
    assert "Traceback" not in done.stderr
