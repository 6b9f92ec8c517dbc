"""What update screening adds to a private step, by the number of evaluation examples.

    python scripts/benchmark/screening.py

Epochs of `fit` on the MNIST CNN with an expected batch of 512, plain and screened in turn, timed
from the first to the last step of an epoch; prints medians, ranges and ratios of each round.
"""

import os
import statistics

import keras
import numpy as np
from absl import app, flags
from clock import Clock

import tfdp

_ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds over all settings.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 20, "Steps of an epoch.", lower_bound=2)
_EXAMPLES = 10_240


def private_model() -> tfdp.PrivateModel:
    private = tfdp.make_private(tfdp.models.mnist_cnn())
    private.compile(
        tfdp.optimizers.VectorizedDPKerasSGDOptimizer(0.1, 1.2, learning_rate=0.5, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return private


def main(argv: list[str]) -> None:
    """Measures and prints."""
    del argv
    rng = np.random.default_rng(0)
    x = rng.random((_EXAMPLES, 28, 28, 1), "float32")
    y = rng.integers(0, 10, _EXAMPLES)
    annealing, threshold = tfdp.callbacks.SimulatedAnnealing, tfdp.callbacks.NoisyThreshold
    screenings = {
        "plain": None,
        "annealing, 256": (annealing(), tfdp.sampling.public(x[:256], y[:256])),
        "annealing, 4,000": (annealing(), tfdp.sampling.public(x[:4000], y[:4000])),
        "noisy threshold, 256 expected": (
            threshold(sampling_probability=256 / _EXAMPLES),
            (x, y),
        ),
    }
    data = tfdp.sampling.PoissonDataset(x, y, expected_batch_size=512, steps_per_epoch=_STEPS.value)
    models = {name: private_model() for name in screenings}
    clocks = {name: Clock() for name in screenings}
    callbacks = {
        name: [clocks[name]]
        if screening is None
        else [tfdp.callbacks.UpdateScreening(*screening), clocks[name]]
        for name, screening in screenings.items()
    }
    # The clock begins after the screening of a step's end, and so sees all of the next ones.
    for _ in range(_ROUNDS.value + 1):
        for name, private in models.items():
            private.fit(data, epochs=1, verbose=0, callbacks=callbacks[name])
    plain = clocks["plain"].seconds[1:]
    print(f"load {os.getloadavg()[0]:.1f}")
    for name, clock in clocks.items():
        seconds = clock.seconds[1:]  # The first round traces.
        ratios = [own / base for own, base in zip(seconds, plain, strict=True)]
        print(
            f"{name:<30} {statistics.median(seconds) * 1e3:7.1f} ms a step, "
            f"{statistics.median(ratios):.2f} times plain ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    app.run(main)
