"""Eight bugs that private training has had somewhere, to plant one at a time, and their pipelines.

A bug is one or two edits of the source of tfdp's own functions; it fails to be planted if the text
that it replaces is not there any more.
"""

import inspect
import sys
import textwrap

import keras
import numpy as np

import tfdp
from tfdp import private_step
from tfdp.auditing import compare_neighbours
from tfdp.callbacks import update_screening
from tfdp.clipping import bounds, engine

NUMBERS = np.random.default_rng(0)
X = NUMBERS.normal(size=(24, 6)).astype("float32")
Y = NUMBERS.integers(0, 3, 24)
X[-1] *= 4  # The example that is left out: its gradient is far longer than the clip norm.
CLIP, SIGMA, RULE_SIGMA = 0.5, 2.0, 1.5


def dense():
    return keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(12, "tanh"), keras.layers.Dense(3)]
    )


def with_dropout():
    """Its gradients differ much between one draw of the masks and the next."""
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(12, "tanh"),
            keras.layers.Dropout(0.7),
            keras.layers.Dense(3),
        ]
    )


def training(build=dense, callbacks=lambda: None):
    """A pipeline of four steps, each in several physical batches."""

    def pipeline():
        private = tfdp.make_private(build(), physical_batch_size=7)
        private.compile(
            tfdp.optimizers.VectorizedDPKerasSGDOptimizer(
                CLIP, SIGMA, learning_rate=0.3, momentum=0.9
            ),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        )
        private.optimizer.build(private.trainable_variables)  # Else a step is traced twice.
        private.fit(
            X, Y, batch_size=20, epochs=2, steps_per_epoch=2, verbose=0, callbacks=callbacks()
        )
        return private

    return pipeline


def rejecting():
    """Screening on private data that rejects every update."""
    rule = tfdp.callbacks.NoisyThreshold(
        threshold=-9.0,
        noise_multiplier=RULE_SIGMA,
        sampling_probability=0.75,
        difference="examples",
    )
    return [tfdp.callbacks.UpdateScreening(rule, (X, Y))]


PIPELINES = {
    "training": (training(), [CLIP]),
    "dropout": (training(with_dropout), [CLIP]),
    "screening": (training(callbacks=rejecting), [CLIP, 1 / 18]),
}

NOISE = "self._noise.add(sums, self.optimizer.noise_stddev, self._replicas_in_sync)"
ONES = "[tf.ones_like(norms)] * len(squared)"
STEP, ENGINE = private_step.PrivateStep, engine.Engine
#: The pipeline, edits (owner, function, old text, new text) and what the recorder says.
BUGS = {
    "noise left out": (
        "training",
        [(STEP, "_noisy_means", NOISE, "sums")],
        "0 places.*noise multiplier 2: 4 events were charged, and such noise was drawn 0 times",
    ),
    "noise per physical batch": (
        "training",
        [
            (STEP, "_noisy_means", NOISE, "sums"),
            (
                STEP,
                "_sum_clipped",
                "return summed.sums",
                "return " + NOISE.replace("sums", "summed.sums"),
            ),
        ],
        "noise multiplier 2: 4 events were charged, and such noise was drawn 1. times",
    ),
    "clip after averaging": (
        "training",
        [
            (
                ENGINE,
                "__call__",
                "self._clipper.factors(squared)",
                "[tf.ones_like(norms)] * len(squared)",
            ),
            (
                STEP,
                "_noisy_means",
                "noisy =",
                "size, bound = mechanism.denominator, self.optimizer.l2_norm_clip\n"
                "    means, _ = tf.clip_by_global_norm([s / size for s in sums], bound)\n"
                "    sums = [size * mean for mean in means]\n"
                "    noisy =",
            ),
        ],
        "more than the declared sensitivity 0.5",
    ),
    "clip per layer at full C": (
        "training",
        [
            (
                bounds.ClipBound,
                "resolve",
                "bound = self.l2_norm_clip",
                "bound = [self.l2_norm_clip] * 2",  # The model has two layers.
            )
        ],
        "more than the declared sensitivity 0.5",
    ),
    "second forward pass under Dropout": (
        "dropout",
        [
            (
                ENGINE,
                "__call__",
                "keep = finite",
                "gradients, losses, y_pred = self._per_example(x, y, sample_weight, loss_fn)\n"
                "    keep = finite",
            )
        ],
        "more than the declared sensitivity 0.5",
    ),
    "realised batch size as denominator": (
        "training",
        [
            (
                tfdp.PrivateModel,
                "train_step",
                "batch = self._prepared(data)",
                "batch = self._prepared(data)\n    self._realised = sampling.batch_length(batch)",
            ),
            (
                STEP,
                "_noisy_means",
                "mechanism.denominator",
                "tf.cast(self._realised, total.dtype)",
            ),
        ],
        "released arrays differ.*data go around the noise",
    ),
    "noise per replica at full scale": (
        "replicas",
        [(STEP, "_noisy_means", ", self._replicas_in_sync", "")],
        "noise multiplier 2.82843: 0 events were charged, and such noise was drawn 4 times",
    ),
    "rejected trials not charged": (
        "screening",
        [
            (
                update_screening.UpdateScreening,
                "on_train_batch_end",
                'if not accepted and self.charge == "accepted":',
                "if not accepted:",
            ),
            (
                tfdp.PrivateModel,
                "forgive_step",
                "if not self.ledger.not_private_reasons:",
                "if False:",
            ),
        ],
        "noise multiplier 2: 0 events were charged, and such noise was drawn 4 times",
    ),
}


def plant(name, monkeypatch):
    """Replaces functions by what their edited source says."""
    for owner, function, old, new in BUGS[name][1]:
        original = getattr(owner, function)
        source = textwrap.dedent(inspect.getsource(original))
        assert source.count(old) == 1, f"{old!r} is not once in the source of {function}"
        planted = {}
        exec(source.replace(old, new), {**vars(sys.modules[original.__module__])}, planted)
        monkeypatch.setattr(owner, function, planted[function])


def report_of(pipeline):
    run, sensitivities = PIPELINES[pipeline]
    return compare_neighbours(run, sensitivities=sensitivities)
