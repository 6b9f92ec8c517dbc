"""Writes the reference vectors of `tests/parity_test.py`, computed by tensorflow-privacy itself.

One command regenerates them; it prepares the environment of tensorflow-privacy when it is missing
and runs itself again inside it:

    python scripts/benchmark/parity_tensorflow_privacy.py

The output, `tests/reference/tensorflow_privacy.npz` and `.json`, holds for each case the initial
weights, three batches, and the weights after one and after three noiseless steps of a vectorized
DP optimizer; the standard deviation of the noise; and values of epsilon.
"""

import importlib.metadata
import json
import math
import pathlib
import re
import subprocess
import sys
from typing import Any

import environments
import numpy as np
from absl import app, flags

_OUTPUT = flags.DEFINE_string(
    "output",
    str(environments.CHECKOUT / "tests" / "reference" / "tensorflow_privacy"),
    "Path of the two files to write, without the extension.",
)

PEER = "tensorflow_privacy"
BATCH_SIZE = 16
STEPS = 3
PACKAGES = ("tensorflow", "tensorflow-privacy", "dp-accounting", "keras", "numpy")

# Name: model, optimizer, number of microbatches, arguments of the optimizer. The clip norm is the
# median of the norms of the microbatches' gradients, so that it bites for half of them.
CASES: dict[str, tuple[str, str, int, dict[str, Any]]] = {
    "mlp_sgd": ("mlp", "VectorizedDPKerasSGDOptimizer", 16, {"learning_rate": 0.5}),
    "mlp_sgd_momentum": (
        "mlp",
        "VectorizedDPKerasSGDOptimizer",
        16,
        {"learning_rate": 0.2, "momentum": 0.9},
    ),
    "mlp_sgd_microbatches": ("mlp", "VectorizedDPKerasSGDOptimizer", 4, {"learning_rate": 0.5}),
    "mlp_adam": ("mlp", "VectorizedDPKerasAdamOptimizer", 16, {"learning_rate": 0.05}),
    "mlp_adagrad": ("mlp", "VectorizedDPKerasAdagradOptimizer", 16, {"learning_rate": 0.1}),
    "mnist_cnn_sgd_momentum": (
        "mnist_cnn",
        "VectorizedDPKerasSGDOptimizer",
        16,
        {"learning_rate": 0.5, "momentum": 0.9},
    ),
}

# (noise_multiplier, number of examples, batch size, epochs, delta)
ACCOUNTING = (
    (1.1, 60_000, 256, 60, 1e-5),
    (1.23, 60_000, 512, 40, 1e-5),
    (2.15, 60_000, 2048, 40, 1e-5),
    (3.0, 50_000, 4096, 200, 1e-5),
    (0.7, 10_000, 100, 5, 1e-4),
    (5.0, 1_000, 1_000, 50, 1e-3),
)


def build_model(name: str, seed: int) -> Any:
    """The Keras 2 model called `name`."""
    import tensorflow as tf

    tf.keras.utils.set_random_seed(seed)
    layers = tf.keras.layers
    if name == "mlp":
        stack = [tf.keras.Input((8,)), layers.Dense(16, activation="tanh"), layers.Dense(3)]
    else:
        stack = [
            tf.keras.Input((28, 28, 1)),
            layers.Conv2D(16, 8, strides=2, padding="same", activation="tanh"),
            layers.MaxPooling2D(2, strides=1),
            layers.Conv2D(32, 4, strides=2, padding="valid", activation="tanh"),
            layers.MaxPooling2D(2, strides=1),
            layers.Flatten(),
            layers.Dense(32, activation="tanh"),
            layers.Dense(10),
        ]
    return tf.keras.Sequential(stack)


def make_batches(model: Any, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels for every step; images are integers of 8 bits, to keep the files small."""
    shape = (STEPS, BATCH_SIZE, *model.input_shape[1:])
    classes = model.output_shape[-1]
    labels = generator.integers(0, classes, (STEPS, BATCH_SIZE), dtype=np.int64)
    if len(shape) == 5:
        return generator.integers(0, 256, shape, dtype=np.uint8), labels
    return generator.normal(0, 1, shape).astype(np.float32), labels


def as_inputs(x: np.ndarray) -> np.ndarray:
    """The float32 inputs that a stored batch stands for."""
    return x.astype(np.float32) / np.float32(255) if x.dtype == np.uint8 else x


def microbatch_norms(model: Any, x: np.ndarray, y: np.ndarray, num_microbatches: int) -> np.ndarray:
    """The norm of each microbatch's gradient, one gradient at a time."""
    import tensorflow as tf

    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    norms = []
    for part in np.split(np.arange(len(x)), num_microbatches):
        with tf.GradientTape() as tape:
            value = loss(y[part], model(x[part]))
        norms.append(float(tf.linalg.global_norm(tape.gradient(value, model.trainable_variables))))
    return np.array(norms)


def private_step(
    model: Any, optimizer: str, x: np.ndarray, y: np.ndarray, **arguments: Any
) -> None:
    """Compiles `model` for tensorflow-privacy, unless it is, and runs one step."""
    import tensorflow as tf
    import tensorflow_privacy

    if not model._is_compiled:
        loss = tf.keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction=tf.keras.losses.Reduction.NONE
        )
        model.compile(optimizer=getattr(tensorflow_privacy, optimizer)(**arguments), loss=loss)
    model.train_on_batch(x, y)


def run_case(name: str, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the description of one case."""
    architecture, optimizer, num_microbatches, arguments = CASES[name]
    model = build_model(architecture, seed)
    x, y = make_batches(model, np.random.default_rng(seed))
    norms = microbatch_norms(model, as_inputs(x[0]), y[0], num_microbatches)
    clip = float(np.float32(np.median(norms)))
    arrays = {"x": x, "y": y}
    arrays |= {f"initial/{i}": value for i, value in enumerate(model.get_weights())}
    for step in range(STEPS):
        private_step(
            model,
            optimizer,
            as_inputs(x[step]),
            y[step],
            l2_norm_clip=clip,
            noise_multiplier=0.0,
            num_microbatches=num_microbatches,
            **arguments,
        )
        if step + 1 in (1, STEPS):
            weights = model.get_weights()
            arrays |= {f"after_{step + 1}/{i}": value for i, value in enumerate(weights)}
    description = {
        "model": architecture,
        "optimizer": optimizer,
        "arguments": arguments,
        "l2_norm_clip": clip,
        "num_microbatches": num_microbatches,
        "batch_size": BATCH_SIZE,
        "clipped_in_first_step": int((norms > clip).sum()),
        "num_weights": len(model.get_weights()),
    }
    return {f"{name}/{key}": value for key, value in arrays.items()}, description


def noise_stddev(num_microbatches: int) -> dict[str, Any]:
    """The standard deviation of one update of the CNN when nearly all of it is noise."""
    model = build_model("mnist_cnn", seed=0)
    x, y = make_batches(model, np.random.default_rng(0))
    before = np.concatenate([value.ravel() for value in model.get_weights()])
    clip, noise_multiplier = 0.01, 500.0
    private_step(
        model,
        "VectorizedDPKerasSGDOptimizer",
        as_inputs(x[0]),
        y[0],
        l2_norm_clip=clip,
        noise_multiplier=noise_multiplier,
        num_microbatches=num_microbatches,
        learning_rate=1.0,
    )
    after = np.concatenate([value.ravel() for value in model.get_weights()])
    return {
        "num_microbatches": num_microbatches,
        "batch_size": BATCH_SIZE,
        "l2_norm_clip": clip,
        "noise_multiplier": noise_multiplier,
        "stddev": float(np.std(after - before)),
    }


def account(
    noise_multiplier: float, examples: int, batch_size: int, epochs: int, delta: float
) -> dict[str, Any]:
    """Epsilon as tensorflow-privacy prints it, and as its dp_accounting computes it."""
    import dp_accounting
    import tensorflow_privacy
    from tensorflow_privacy.privacy.analysis import compute_dp_sgd_privacy_lib as library

    def printed(used_microbatching: bool, accountant: library.AccountantType) -> float:
        statement = tensorflow_privacy.compute_dp_sgd_privacy_statement(
            number_of_examples=examples,
            batch_size=batch_size,
            num_epochs=epochs,
            noise_multiplier=noise_multiplier,
            delta=delta,
            used_microbatching=used_microbatching,
            accountant_type=accountant,
        )
        return float(re.search(r"Poisson sampling \(\*\):\s+([\d.]+)", statement).group(1))

    q = batch_size / examples
    steps = math.ceil(epochs / q)
    event = dp_accounting.SelfComposedDpEvent(
        dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(noise_multiplier)),
        steps,
    )
    return {
        "noise_multiplier": noise_multiplier,
        "sampling_probability": q,
        "steps": steps,
        "delta": delta,
        "rdp": dp_accounting.rdp.RdpAccountant().compose(event).get_epsilon(delta),
        "pld": dp_accounting.pld.PLDAccountant().compose(event).get_epsilon(delta),
        "printed_rdp": printed(False, library.AccountantType.RDP),
        "printed_pld": printed(False, library.AccountantType.PLD),
        "printed_rdp_microbatches": printed(True, library.AccountantType.RDP),
    }


def main(argv: list[str]) -> None:
    """Runs this program in the environment of tensorflow-privacy, or writes the vectors there."""
    interpreter = environments.prepare(PEER)
    if pathlib.Path(sys.prefix).resolve() != interpreter.parents[1].resolve():
        subprocess.run([str(interpreter), *argv, f"--output={_OUTPUT.value}"], check=True)
        return

    arrays: dict[str, np.ndarray] = {}
    document: dict[str, Any] = {
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
        "cases": {},
        "noise": [noise_stddev(BATCH_SIZE), noise_stddev(4)],
        "accounting": [account(*row) for row in ACCOUNTING],
    }
    for seed, name in enumerate(CASES, start=1):
        case_arrays, document["cases"][name] = run_case(name, seed)
        arrays |= case_arrays
    np.savez_compressed(f"{_OUTPUT.value}.npz", **arrays)
    pathlib.Path(f"{_OUTPUT.value}.json").write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
