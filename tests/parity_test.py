"""The private step, its noise and its epsilon against tensorflow-privacy 0.9.0.

The vectors in `tests/reference/` were written by `scripts/benchmark/parity_tensorflow_privacy.py`,
which runs tensorflow-privacy in an environment of its own.
"""

import json
import pathlib
from typing import Any

import keras
import numpy as np
import pytest

import tfdp

REFERENCE = pathlib.Path(__file__).resolve().parent / "reference" / "tensorflow_privacy"
DOCUMENT: dict[str, Any] = json.loads(REFERENCE.with_suffix(".json").read_text())


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    with np.load(REFERENCE.with_suffix(".npz")) as file:
        return dict(file)


def build_model(name: str) -> keras.Model:
    layers = keras.layers
    if name == "mlp":
        stack = [keras.Input((8,)), layers.Dense(16, activation="tanh"), layers.Dense(3)]
    else:
        stack = [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 8, strides=2, padding="same", activation="tanh"),
            layers.MaxPooling2D(2, strides=1),
            layers.Conv2D(32, 4, strides=2, padding="valid", activation="tanh"),
            layers.MaxPooling2D(2, strides=1),
            layers.Flatten(),
            layers.Dense(32, activation="tanh"),
            layers.Dense(10),
        ]
    return keras.Sequential(stack)


def make_private(model: keras.Model, optimizer: keras.Optimizer, batch_size: int) -> keras.Model:
    private = tfdp.make_private(model, expected_batch_size=batch_size)
    private.compile(
        optimizer=optimizer,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return private


def as_inputs(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32) / np.float32(255) if x.dtype == np.uint8 else x


def stored_weights(arrays: dict[str, np.ndarray], key: str, count: int) -> list[np.ndarray]:
    return [arrays[f"{key}/{index}"] for index in range(count)]


@pytest.mark.parametrize("name", DOCUMENT["cases"])
def test_steps_equal_those_of_tensorflow_privacy(name: str, arrays: dict[str, np.ndarray]) -> None:
    case = DOCUMENT["cases"][name]
    assert 0 < case["clipped_in_first_step"] < case["num_microbatches"]
    model = build_model(case["model"])
    model.set_weights(stored_weights(arrays, f"{name}/initial", case["num_weights"]))
    optimizer = getattr(tfdp.optimizers, case["optimizer"])(
        l2_norm_clip=case["l2_norm_clip"],
        noise_multiplier=0.0,
        num_microbatches=case["num_microbatches"],
        **case["arguments"],
    )
    private = make_private(model, optimizer, case["batch_size"])
    x, y = arrays[f"{name}/x"], arrays[f"{name}/y"]
    for step in range(len(x)):
        private.train_on_batch(as_inputs(x[step]), y[step])
        if f"{name}/after_{step + 1}/0" in arrays:
            wanted = stored_weights(arrays, f"{name}/after_{step + 1}", case["num_weights"])
            for actual, desired in zip(model.get_weights(), wanted, strict=True):
                np.testing.assert_allclose(actual, desired, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", DOCUMENT["noise"], ids=lambda c: f"{c['num_microbatches']}_groups")
def test_noise_has_the_scale_of_tensorflow_privacy(
    case: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    name = "mnist_cnn_sgd_momentum"
    model = build_model("mnist_cnn")
    optimizer = tfdp.optimizers.VectorizedDPKerasSGDOptimizer(
        l2_norm_clip=case["l2_norm_clip"],
        noise_multiplier=case["noise_multiplier"],
        num_microbatches=case["num_microbatches"],
        learning_rate=1.0,
    )
    private = make_private(model, optimizer, case["batch_size"])
    before = np.concatenate([value.ravel() for value in model.get_weights()])
    private.train_on_batch(as_inputs(arrays[f"{name}/x"][0]), arrays[f"{name}/y"][0])
    after = np.concatenate([value.ravel() for value in model.get_weights()])
    # Each of the two standard deviations is an estimate from 26,010 draws: 0.44 % of error each.
    assert np.std(after - before) == pytest.approx(case["stddev"], rel=0.03)


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
@pytest.mark.parametrize(
    "row", DOCUMENT["accounting"], ids=lambda r: f"sigma{r['noise_multiplier']}_{r['steps']}steps"
)
def test_epsilon_equals_that_of_tensorflow_privacy(row: dict[str, Any], accountant: str) -> None:
    epsilon = tfdp.accounting.epsilon(
        noise_multiplier=row["noise_multiplier"],
        sampling_probability=row["sampling_probability"],
        steps=row["steps"],
        delta=row["delta"],
        accountant=accountant,
    )
    assert epsilon == pytest.approx(row[accountant], rel=1e-3)
    assert epsilon == pytest.approx(row[f"printed_{accountant}"], abs=2e-3)


@pytest.mark.parametrize(
    "row", DOCUMENT["accounting"], ids=lambda r: f"sigma{r['noise_multiplier']}_{r['steps']}steps"
)
def test_microbatches_of_several_examples_cost_what_they_cost_there(row: dict[str, Any]) -> None:
    ledger = tfdp.accounting.PrivacyLedger()
    event = tfdp.accounting.dp_sgd_event(
        row["noise_multiplier"], row["sampling_probability"], microbatch_size=4
    )
    ledger.charge(event, count=row["steps"])
    # At little noise the newer dp_accounting has other orders: 0.5 % of epsilon at most here.
    assert ledger.epsilon(row["delta"]) == pytest.approx(row["printed_rdp_microbatches"], rel=1e-2)
