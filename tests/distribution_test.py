"""Training on several devices and workers: the mechanism of one, in processes of their own."""

import functools
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import urllib.error

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import tfdp

HERE = pathlib.Path(__file__).parent
ENVIRONMENT = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}


@functools.cache
def found_with(replicas):
    """What `training_on_replicas.py` found with so many replicas."""
    done = subprocess.run(
        [sys.executable, HERE / "training_on_replicas.py", str(replicas)],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("replicas", [2, 4])
def test_without_noise_the_updates_are_those_of_one_device(replicas):
    found = found_with(replicas)
    assert len(found["updates"]) == (9 if replicas == 2 else 2)
    for name, case in found["updates"].items():
        assert case["difference"] < 1e-6 < 1e-3 < case["moved"], name
        assert case["loss"][0] == pytest.approx(case["loss"][1], rel=1e-5), name
        assert case["accuracy"][0] == pytest.approx(case["accuracy"][1]), name
        assert case["steps"] == [4, 4], name


@pytest.mark.parametrize("replicas", [2, 4])
def test_the_noise_on_an_update_has_the_law_of_one_device(replicas):
    found = found_with(replicas)
    first, second = map(np.array, found["noise"]["steps"])
    for draws in (first, second):
        assert stats.kstest(draws, "norm").pvalue > 1e-4
        for wrong in (2 / 3, 3 / 2):
            assert stats.kstest(draws, "norm", args=(0, wrong)).pvalue < 1e-6
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1
    assert found["noise"]["replicas differ by"] == 0
    assert found["noise"]["epsilon"] == pytest.approx(found["noise"]["epsilon of one device"])


def test_replicas_reduce_once_a_step_however_many_physical_batches():
    found = found_with(2)
    assert found["collectives"] == {"in all": 2, "in loops": 0}  # one, seen from each replica


def test_what_works_on_one_device_works_on_several():
    found = found_with(2)
    works = found["works"]
    assert len(works) == 14
    saved, budget = works.pop("saved"), works.pop("budget")
    assert saved["difference"] == 0 and saved["charged"] == [4, 4]
    assert 0 < budget["charged"] == budget["steps"] < 200 and budget["epsilon"] <= 2.0
    for name, case in works.items():
        assert np.isfinite(case["loss"]).all(), name
        if "screening" in name:  # an update that is undone was charged all the same, and its score
            assert case["charged"] == (8 if "scores" in name else 4) >= case["steps"]
            continue
        passes = name == "declared"  # shuffled data are charged by the pass, of 4 steps
        assert case["charged"] * (4 if passes else 1) == case["steps"] > 0, name
    # Samples of each replica are cut by themselves, which costs more than cutting their union.
    whole = tfdp.sampling.PoissonDataset(np.zeros((30, 1)), expected_batch_size=8, capacity=16)
    ledgers = []
    for shares in (1, 2):
        scheme = whole.scheme_of(shares)
        assert scheme.share_capacity * shares == 16
        ledger = tfdp.accounting.PrivacyLedger()
        ledger.charge(
            tfdp.accounting.truncated_dp_sgd_event(
                2.0, 8 / 30, scheme.share_examples, scheme.share_capacity
            ),
            8,
        )
        ledgers.append(ledger.epsilon(1e-3))
    assert works["capacity"]["epsilon"] == pytest.approx(ledgers[1])
    assert ledgers[1] >= ledgers[0]


def test_what_would_be_another_mechanism_is_refused():
    found = found_with(2)
    messages = found["refused"]
    for name in ("clipnorm", "gradient_accumulation_steps", "num_microbatches"):
        assert f"`{name}` would act on the share of each replica" in messages[name]
    assert "secure_noise=True with MirroredStrategy, 2 replicas" in messages["secure_noise"]
    assert "steps_per_execution=2 with 2 replicas" in messages["steps_per_execution"]
    assert "num_examples=90 for 30 examples on one host" in messages["num_examples"]
    assert "On several replicas a batch is shared out by `fit`" in messages["train_on_batch"]
    assert "made under the strategy's scope()" in messages["optimizer"]
    assert "made private under the same one's scope()" in messages["make_private"]


def start(folder, port, workers, index, epochs=2, seconds=0.0):
    numbers = (port, workers, index, epochs, seconds)
    with open(folder / f"{workers}_{index}.log", "a") as log:
        return subprocess.Popen(
            [sys.executable, HERE / "training_with_workers.py", folder, *map(str, numbers)],
            stdout=log,
            stderr=log,
            env=ENVIRONMENT,
        )


def finish(processes, folder):
    for process in processes:
        assert process.wait(180) == 0, [f.read_text()[-2000:] for f in folder.glob("*.log")]


@pytest.fixture
def port():
    """The first of two ports that were free just now."""
    for number in range(20_000 + os.getpid() % 10_000, 60_000, 7):
        try:
            for offset in range(2):
                with socket.socket() as trial:
                    trial.bind(("127.0.0.1", number + offset))
            return number
        except OSError:
            continue


def test_two_workers_train_as_one_and_go_on_after_one_was_killed(tmp_path, port):
    alone = start(tmp_path, port, 1, 0, epochs=6)
    two = [start(tmp_path, port, 2, index, epochs=6, seconds=1.0) for index in range(2)]
    log = tmp_path / "2_1.log"
    deadline = time.monotonic() + 120
    while "epoch 2" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.1)
    two[1].send_signal(signal.SIGKILL)
    assert two[1].wait(10) == -signal.SIGKILL
    assert two[0].wait(180) != 0  # The other one notices, and gives up.
    assert (tmp_path / "backup").exists()
    log.write_text("")
    finish([start(tmp_path, port, 2, i, epochs=6, seconds=0.01) for i in range(2)], tmp_path)
    assert "epoch 0" not in log.read_text() and "epoch 5" in log.read_text()
    finish([alone], tmp_path)
    one = np.load(tmp_path / "1_0.npz")
    for index in range(2):
        other = np.load(tmp_path / f"2_{index}.npz")
        np.testing.assert_allclose(other["weights"], one["weights"], atol=1e-6)
        assert other["loss"][-1] == pytest.approx(one["loss"][-1], rel=1e-5)
        assert other["val_accuracy"][-1] == pytest.approx(one["val_accuracy"][-1])
        # What was lost with the worker was never released; all that was is in the ledger.
        assert other["charged"] == other["steps"] == one["steps"] == 12
    assert not (tmp_path / "backup").exists()


@pytest.mark.parametrize(
    "text",
    [
        None,
        "no JSON",
        "{}",
        '{"cluster": {"worker": []}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"worker": ["a"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}',
        '{"cluster": {"worker": "a:1"}, "task": {"type": "worker", "index": 0}}',
    ],
)
def test_a_cluster_that_is_not_described_is_refused(monkeypatch, text):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if text is not None:
        monkeypatch.setenv("TF_CONFIG", text)
    with pytest.raises(ValueError, match="needs the environment variable TF_CONFIG"):
        tfdp.distribution.strategy("multi_worker")


def test_arguments_of_another_strategy_are_refused():
    with pytest.raises(ValueError, match="`devices` is for strategy\\('mirrored'\\)"):
        tfdp.distribution.strategy("none", devices=["CPU:0"])
    with pytest.raises(ValueError, match="`tpu` is for strategy\\('tpu'\\)"):
        tfdp.distribution.strategy("mirrored", tpu="local")
    with pytest.raises(ValueError, match="There is no such device.*GPU:9"):
        tfdp.distribution.strategy("mirrored", devices=["GPU:9"])
    with pytest.raises(TypeError, match="devices"):
        tfdp.distribution.strategy("mirrored", devices="CPU:0")


def test_a_tpu_that_cannot_be_looked_up_is_not_found(monkeypatch):
    def not_found(tpu):
        raise urllib.error.URLError(f"{tpu} is not known")

    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", not_found)
    with pytest.raises(RuntimeError, match="No TPU was found: .*Received: tpu='nowhere'"):
        tfdp.distribution.strategy("tpu", tpu="nowhere")


def test_one_device_under_a_strategy_is_one_device():
    x, y = np.ones((8, 3), "float32"), np.zeros(8, "int64")
    results = []
    for strategy in (tf.distribute.OneDeviceStrategy("CPU:0"), tf.distribute.get_strategy()):
        with strategy.scope():
            keras.utils.set_random_seed(3)
            private = tfdp.make_private(
                keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
            )
            private.compile(
                tfdp.optimizers.VectorizedDPKerasSGDOptimizer(1.0, 0.0, learning_rate=0.5),
                loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            )
        private.fit(x, y, batch_size=8, epochs=2, verbose=0)
        results.append(private.get_weights()[0])
    np.testing.assert_allclose(*results, atol=1e-7)


def test_a_part_of_the_data_is_refused_on_one_host():
    private = tfdp.make_private(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))
    private.compile(tfdp.optimizers.VectorizedDPKerasSGDOptimizer(1.0, 1.0), loss="mse")
    part = tfdp.sampling.PoissonDataset(np.ones((8, 3)), np.ones((8, 2)), num_examples=16)
    with pytest.raises(ValueError, match="num_examples=16 for 8 examples on one host"):
        private.fit(part, verbose=0)


def test_parameter_servers_are_refused():
    strategy = tf.compat.v1.distribute.experimental.ParameterServerStrategy()
    with pytest.raises(ValueError, match="Keras 3 does not train under parameter servers"):
        tfdp._replicas.check_strategy(strategy)
