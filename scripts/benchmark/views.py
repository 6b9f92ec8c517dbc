"""What augmentation multiplicity costs: K views of an example against K times one view.

    python scripts/benchmark/views.py

Epochs of `fit` on the CIFAR CNN with an expected batch of 64, with 1 and with more views of each
example (random shifts and flips, inside the step) in turn; prints, over K, the time of a step in
units of K steps of one view: below 1 where views share work.
"""

import os
import statistics

import keras
import numpy as np
from absl import app, flags
from clock import Clock

import tfdp

_ROUNDS = flags.DEFINE_integer("rounds", 3, "Rounds over all settings.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 4, "Steps of an epoch.", lower_bound=2)
_VIEWS = flags.DEFINE_list("views", ["1", "4"], "Views of each example; 1 comes first.")


def private_model(views: int) -> tfdp.PrivateModel:
    """The CIFAR CNN with so many views of each example."""
    augmentation = keras.Sequential(
        [tfdp.layers.RandomShift(4), keras.layers.RandomFlip("horizontal")]
    )
    private = tfdp.make_private(
        tfdp.models.cifar_cnn(), augmentation=augmentation, augmentation_multiplicity=views
    )
    private.compile(
        tfdp.optimizers.VectorizedDPKerasSGDOptimizer(1.0, 1.2, learning_rate=0.5),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return private


def main(argv: list[str]) -> None:
    """Measures and prints."""
    del argv
    rng = np.random.default_rng(0)
    x, y = rng.random((1024, 32, 32, 3), "float32"), rng.integers(0, 10, 1024)
    data = tfdp.sampling.PoissonDataset(x, y, expected_batch_size=64, steps_per_epoch=_STEPS.value)
    counts = [int(count) for count in _VIEWS.value]
    models = {count: private_model(count) for count in counts}
    clocks = {count: Clock() for count in counts}
    for _ in range(_ROUNDS.value + 1):
        for count, private in models.items():
            private.fit(data, epochs=1, verbose=0, callbacks=[clocks[count]])
    one = clocks[counts[0]].seconds[1:]
    print(f"load {os.getloadavg()[0]:.1f}")
    for count, clock in clocks.items():
        seconds = clock.seconds[1:]  # The first round traces.
        shares = [own / (count * base) for own, base in zip(seconds, one, strict=True)]
        print(
            f"K = {count:<3} {statistics.median(seconds) * 1e3:8.1f} ms a step, "
            f"{statistics.median(shares):.2f} of K steps ({min(shares):.2f} to {max(shares):.2f})"
        )


if __name__ == "__main__":
    app.run(main)
