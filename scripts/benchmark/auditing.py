"""Audits many small trainings: are the bounds below what is claimed, and how near do they get?

    python scripts/benchmark/auditing.py

Each training is of a network of 64-700-10 on scikit-learn's digits, and has 50,000 gradient
canaries, each added by a fair coin; the auditor knows the examples (see
`tfdp.auditing.AuditedModel`). A lower bound above the claim in more than a twentieth of the
trainings would be a mistake in tfdp.
"""

import os
import statistics

import keras
import sklearn.datasets
from absl import app, flags

import tfdp

_RUNS = flags.DEFINE_integer("runs", 20, "Trainings of each kind.", lower_bound=1)
_DELTA = 1e-5
_CANARIES = 50_000
#: How many canaries are guessed to be in, and how many out.
_GUESSES = {1.0: (300, 300), 4.0: (300, 300), 8.0: (1000, 1000)}


def audited(epsilon: float, batch_size: int, steps: int) -> tfdp.auditing.OneRunAudit:
    """Trains once with the noise that the budget asks for, and audits it."""
    digits = sklearn.datasets.load_digits()
    x, y = (digits.data / 16).astype("float32"), digits.target
    noise_multiplier = tfdp.accounting.noise_multiplier(
        epsilon, batch_size / len(x), steps, _DELTA, accountant="pld"
    )
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(700, activation="tanh"),
            keras.layers.Dense(10),
        ]
    )
    private = tfdp.auditing.AuditedModel(
        model, canaries=_CANARIES, direction="single_weights", examples_known=True
    )
    private.compile(
        tfdp.optimizers.VectorizedDPKerasSGDOptimizer(1.0, noise_multiplier, learning_rate=0.1),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    private.fit(x, y, batch_size=batch_size, steps_per_epoch=steps, verbose=0)
    return private.audit(_DELTA, accountant="pld", guesses=[_GUESSES[epsilon]])


def main(argv: list[str]) -> None:
    """Trains, audits and prints."""
    del argv
    print(f"95 % confidence, delta = {_DELTA:g}, load {os.getloadavg()[0]:.1f}")
    for epsilon in _GUESSES:
        for batch_size, steps in ((1797, 10), (256, 50)):
            found = [audited(epsilon, batch_size, steps) for _ in range(_RUNS.value)]
            bounds = [audit.epsilon_lower_bound for audit in found]
            print(
                f"epsilon {epsilon:g}, batches of {batch_size} of 1797, {steps} steps: lower bound "
                f"{statistics.median(bounds):.2f} ({min(bounds):.2f} to {max(bounds):.2f}), "
                f"{sum(audit.contradicts_claim for audit in found)} of {len(found)} above the "
                "claim",
                flush=True,
            )


if __name__ == "__main__":
    app.run(main)
