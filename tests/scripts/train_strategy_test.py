"""Tests of `train.py --strategy` and `--precision`."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import keras
import pytest
from absl import flags

import tfdp
from tfdp.scripts import train, train_settings
from tfdp.scripts.command_line import UsageError

PROGRAM = pathlib.Path(train.__file__)


def train_with(*arguments):
    values = flags.FlagValues()
    train_settings.declare_flags(values)
    values(["train.py", "--epochs=2", "--verbose=0", *arguments])
    return train.train(values)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    numbers = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return numbers


def start(folder, hosts, index, *arguments):
    task = {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": index}}
    environment = os.environ | {"TF_CONFIG": json.dumps(task), "TF_CPP_MIN_LOG_LEVEL": "2"}
    command = [sys.executable, str(PROGRAM), "--strategy=multi_worker", "--noise_multiplier=2"]
    with open(folder / f"{index}.log", "a") as log:
        return subprocess.Popen(
            [*command, f"--output_dir={folder / 'out'}", "--resume", *arguments],
            stdout=log,
            stderr=log,
            env=environment,
            cwd=folder,
        )


def test_two_hosts_train_one_model_and_write_it_once(tmp_path):
    hosts = [f"127.0.0.1:{port}" for port in free_ports(2)]
    workers = [start(tmp_path, hosts, index, "--epochs=2") for index in range(2)]
    for index, worker in enumerate(workers):
        assert worker.wait(240) == 0, (tmp_path / f"{index}.log").read_text()[-2000:]
    record = json.loads((tmp_path / "out" / "result.json").read_text())
    assert record["steps"] == 12 and record["train_examples"] == 1437
    assert 0 < record["epsilon"]["pld"] < record["epsilon"]["rdp"] < 5
    assert (tmp_path / "out" / "model.keras").exists()
    assert not (tmp_path / "out" / "checkpoint.weights.h5").exists()


def test_one_host_trains_under_any_strategy(tmp_path):
    report = train_with("--strategy=mirrored", f"--output_dir={tmp_path}", "--ema_decay=0.9")
    assert report.steps == 12 and report.epsilon["rdp"] <= 8


def test_batches_of_one_shape_are_cut_and_charged_for_it(tmp_path, monkeypatch):
    plain = train_with("--dry_run")
    # So small a capacity that the cut can be seen in the budget.
    capacity_for = tfdp.accounting.capacity_for
    monkeypatch.setattr(
        tfdp.accounting, "capacity_for", lambda count, q: capacity_for(count, q, 1e-6)
    )
    arguments = ("--static_batches", "--strategy=mirrored")
    estimate = train_with(*arguments, "--dry_run")
    report = train_with(*arguments, f"--output_dir={tmp_path}")
    assert estimate.noise_multiplier == report.noise_multiplier
    assert report.epsilon == pytest.approx(estimate.epsilon)
    assert 7.9 < report.epsilon["rdp"] <= 8 and report.steps == 12
    assert report.noise_multiplier > plain.noise_multiplier
    statement = (tmp_path / "privacy_statement.txt").read_text()
    assert f"cut to a random {capacity_for(1437, 256 / 1437, 1e-6)} examples" in statement
    assert report.test_accuracy > 0.5


def test_activations_can_be_bfloat16_and_weights_stay_float32(tmp_path):
    report = train_with("--precision=bfloat16", f"--output_dir={tmp_path}", "--epochs=10")
    assert report.test_accuracy > 0.5
    assert keras.config.dtype_policy().name == "float32"
    model = keras.saving.load_model(tmp_path / "model.keras")
    hidden = next(layer for layer in model.layers if layer.weights)
    assert (hidden.compute_dtype, hidden.variable_dtype) == ("bfloat16", "float32")


def test_what_has_no_devices_is_refused(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UsageError, match="--strategy=multi_worker does not work: .*TF_CONFIG"):
        train_with("--strategy=multi_worker")
    with pytest.raises(UsageError, match="--strategy=tpu does not work: No TPU was found"):
        train_with("--strategy=tpu")
    with pytest.raises(UsageError, match="--tpu is for --strategy=tpu"):
        train_with("--tpu=somewhere")
    for other in ("--screening=annealing", "--random_access"):
        with pytest.raises(UsageError, match=f"do not go with {other.partition('=')[0]}"):
            train_with("--static_batches", other)
    with pytest.raises(UsageError, match="--screening decides in one process"):
        train_with("--strategy=multi_worker", "--screening=annealing")
