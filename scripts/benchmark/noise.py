"""What the source of noise costs: the private step with each, by the fast one.

    python scripts/benchmark/noise.py

Epochs of `fit` on the CIFAR CNN (605,226 weights) with an expected batch of 64, without noise, with
the fast and with the secure source in turn; prints medians, ranges and ratios of each round, and
then the same for the noise alone.
"""

import os
import statistics
import time

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from clock import Clock

import tfdp

_ROUNDS = flags.DEFINE_integer("rounds", 5, "Rounds over all settings.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 6, "Steps of an epoch.", lower_bound=2)
_CLIP, _NOISE_MULTIPLIER = 1.0, 1.2
_SOURCES = {
    "fast": {},
    "secure": {"secure_noise": True},
    "no noise": {"noise_multiplier": 0.0},
}


def private_model(**options) -> tfdp.PrivateModel:
    private = tfdp.make_private(tfdp.models.cifar_cnn())
    options = {"noise_multiplier": _NOISE_MULTIPLIER, "learning_rate": 0.5, **options}
    private.compile(
        tfdp.optimizers.VectorizedDPKerasSGDOptimizer(l2_norm_clip=_CLIP, **options),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return private


def noise_alone(private: tfdp.PrivateModel):
    """A function that draws the noise of one step, and gives back the seconds that it took."""
    optimizer = private.optimizer
    source = optimizer.make_noise()
    zeros = [tf.zeros(weight.shape) for weight in private.trainable_weights]
    draw = tf.function(lambda: source.add(zeros, optimizer.noise_stddev), autograph=False)

    def seconds() -> float:
        began = time.perf_counter()
        for tensor in draw():
            tensor.numpy()
        return time.perf_counter() - began

    return seconds


def show(title: str, seconds: dict[str, list[float]]) -> None:
    """Prints a table of the time of each source, by round."""
    print(f"{title}, at a load of {os.getloadavg()[0]:.1f}")
    for name, own in seconds.items():
        ratios = [one / base for one, base in zip(own, seconds["fast"], strict=True)]
        print(
            f"  {name:<10} {statistics.median(own) * 1e3:7.1f} ms, "
            f"{statistics.median(ratios):.2f} times fast ({min(ratios):.2f} to {max(ratios):.2f})"
        )


def main(argv: list[str]) -> None:
    """Measures and prints."""
    del argv
    rng = np.random.default_rng(0)
    x, y = rng.random((1024, 32, 32, 3), "float32"), rng.integers(0, 10, 1024)
    data = tfdp.sampling.PoissonDataset(x, y, expected_batch_size=64, steps_per_epoch=_STEPS.value)
    models = {name: private_model(**options) for name, options in _SOURCES.items()}
    clocks = {name: Clock() for name in models}
    for _ in range(_ROUNDS.value + 1):
        for name, private in models.items():
            private.fit(data, epochs=1, verbose=0, callbacks=[clocks[name]])
    # The first round traces.
    show("a step", {name: clock.seconds[1:] for name, clock in clocks.items()})
    draws = {name: noise_alone(models[name]) for name in ("fast", "secure")}
    alone = {name: [] for name in draws}
    for _ in range(_ROUNDS.value + 1):
        for name, seconds in draws.items():
            alone[name].append(seconds())
    show("its noise alone", {name: seconds[1:] for name, seconds in alone.items()})


if __name__ == "__main__":
    app.run(main)
