"""Every public argument refuses what it cannot mean, by name and before anything happens.

`CASES` has a row for each public function, class and method of their own: a call that works, and
what each argument must refuse. A public callable without a row fails the test, and so does an
argument that the row does not speak of.
"""

import dataclasses
import functools
import inspect
import math
import os
import re
import sys
import tempfile
import types
import unittest.mock
from collections.abc import Callable
from typing import Any

import dp_accounting
import keras
import numpy as np
import pytest
import simulated_training
import tensorflow as tf

import tfdp

NOT_NUMBERS = ("1", [1.0], None, True, math.nan, math.inf)
REAL = NOT_NUMBERS
POSITIVE = (*NOT_NUMBERS, 0.0, -1.0)
NON_NEGATIVE = (*NOT_NUMBERS, -1.0)
POSITIVE_OR_INFINITE = ("1", [1.0], None, True, math.nan, 0.0, -1.0)
NON_NEGATIVE_OR_INFINITE = ("1", [1.0], None, True, math.nan, -1.0)
PROBABILITY = (*NON_NEGATIVE, 1.1)
SAMPLING_RATE = (*PROBABILITY, 0.0)
DELTA = (*SAMPLING_RATE, 1.0)
NATURAL = (*NOT_NUMBERS, 1.0, -1)
COUNT = (*NATURAL, 0)
INTEGER = (*NOT_NUMBERS, 1.0)
CHOICE = ("another", 1, None, ["rdp"])
TEXT = ("", " ", 1, None)
EVENT = (None, 1.0, "Gaussian", dp_accounting.DpEvent)
MODEL = (None, "model", keras.layers.Dense(2), lambda x: x)
ACTIVATION = (None, 1.0, "no activation")
SHAPE = (None, "ab", 1.5, (28, -1, 1), (28, 0, 1), (28, 28.0, 1), ("a", 28, 1))
ARRAYS = (np.zeros((0, 4)), np.array("text"), {"a": np.zeros((3, 4)), "b": np.zeros((2, 4))})


def optional(values: tuple) -> tuple:
    """The same where ``None`` has a meaning."""
    return tuple(value for value in values if value is not None)


def without_lists(values: tuple) -> tuple:
    """The same where a list has a meaning."""
    return tuple(value for value in values if not isinstance(value, list))


@dataclasses.dataclass
class Case:
    """A row of the table.

    Attributes:
        call: What is called, or a function that makes a bound method anew.
        good: Arguments with which it works.
        bad: For each argument, values that it refuses.
        free: Arguments that are Keras's, or that take anything.
        fresh: Whether ``call`` makes what is called.
    """

    call: Callable
    good: dict[str, Any] = dataclasses.field(default_factory=dict)
    bad: dict[str, tuple] = dataclasses.field(default_factory=dict)
    free: tuple[str, ...] = ()
    fresh: bool = False

    def function(self) -> Callable:
        return self.call() if self.fresh else self.call


def plain_model():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])


def compiled(**kwargs):
    private = tfdp.make_private(plain_model(), **kwargs)
    private.compile(
        tfdp.optimizers.VectorizedDPKerasSGDOptimizer(1.0, 1.0, learning_rate=0.1),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return private


def ledger():
    result = tfdp.accounting.PrivacyLedger()
    result.charge(EVENT_OF_A_STEP, 2)
    return result


def poisson():
    return tfdp.sampling.PoissonDataset(X, Y, expected_batch_size=2)


def adaptable():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="dense")])


def adapted():
    model = adaptable()
    tfdp.lora.enable(model, ["dense"], rank=1)
    return model


def adapters_file():
    path = os.path.join(tempfile.mkdtemp(), "adapters")
    tfdp.lora.save_adapters(adapted(), path)
    return path


def selection():
    return tfdp.saliency.select(
        adaptable(),
        "mse",
        (X, np.zeros((6, 3))),
        candidates="all_matrices",
        score_noise_multiplier=1.0,
    )


def statistics():
    return tfdp.statistics.measure(X, l2_norm_clip=1.0, noise_multiplier=1.0)


def scaling():
    layer = tfdp.layers.PrincipalScaling(1)
    layer.build((None, 4))
    return layer


UNET = tfdp.synthesis.attention_unet((8, 8, 1), 2, widths=(4, 4))
X, Y = np.arange(24.0).reshape(6, 4), np.zeros(6, "int32")
BATCHES = tf.data.Dataset.from_tensor_slices((X, Y)).batch(2)
EVENT_OF_A_STEP = dp_accounting.PoissonSampledDpEvent(0.1, dp_accounting.GaussianDpEvent(1.0))
SETUP = {"noise_multiplier": 1.0, "sampling_probability": 0.1, "steps": 2, "delta": 1e-5}
RUN = {
    "num_examples": 1000,
    "batch_size": 32,
    "noise_multiplier": 1.0,
    "steps": 100,
    "learning_rate": 0.1,
    "delta": 1e-5,
}
SAMPLED = {"noise_multiplier": 1.0, "sampling_probability": 0.01}
DRAWN = {"expected_batch_size": 2, "steps_per_epoch": 3, "capacity": 4, "seed": 1}
BAD_SETUP = {
    "noise_multiplier": NON_NEGATIVE,
    "sampling_probability": PROBABILITY,
    "steps": (*NATURAL, 2**63),
    "delta": DELTA,
    "accountant": CHOICE,
}
BAD_IMAGES = {
    "input_shape": (*SHAPE, (32, 32)),
    "num_classes": COUNT,
    "normalize": (None, 1, "yes"),
}
BAD_DRAWN = {
    "expected_batch_size": (*optional(COUNT), 7),
    "steps_per_epoch": optional(COUNT),
    "capacity": (*optional(COUNT), 1),
    "num_examples": (*optional(COUNT), 1),
    "seed": optional(INTEGER),
}


def a(call, good=None, bad=None, free=(), fresh=False):
    return Case(call, good or {}, bad or {}, free, fresh)


def without(arguments, *names):
    return {name: value for name, value in arguments.items() if name not in names}


def optimizer_case(optimizer):
    return a(
        optimizer,
        {"l2_norm_clip": 1.0, "noise_multiplier": 1.0},
        {
            "l2_norm_clip": (
                *without_lists(POSITIVE),
                *([value] for value in POSITIVE),
                *({"layer": value} for value in POSITIVE),
                {},
                {1: 1.0},
            ),
            "noise_multiplier": NON_NEGATIVE,
            "num_microbatches": optional(COUNT),
            "automatic_gamma": optional(POSITIVE),
            "noise_seed": optional(INTEGER),
            "ema_warmup": (None, 1, "yes"),
            "secure_noise": (None, 1, "yes"),
        },
        free=("args", "kwargs"),
    )


def model_case(model, **bad):
    return a(
        model,
        bad={
            "activation": ACTIVATION,
            "input_shape": SHAPE,
            "num_classes": COUNT,
            **bad,
        },
    )


def features(count, extractor="test"):
    return tfdp.synthesis.Features(extractor, np.random.default_rng(count).normal(size=(count, 2)))


@functools.wraps(tfdp.synthesis.inception_features)
def small_inception(*args, **kwargs):
    network = keras.Sequential([keras.Input((299, 299, 3)), keras.layers.GlobalAveragePooling2D()])
    with unittest.mock.patch("keras.applications.InceptionV3", return_value=network):
        return tfdp.synthesis.inception_features(*args, **kwargs)


@functools.wraps(tfdp.synthesis.stable_diffusion_unet)
def stand_in_for_stable_diffusion(*args, **kwargs):
    """Without building 860 million weights."""
    module = unittest.mock.Mock()
    with unittest.mock.patch.dict(sys.modules, {"keras_cv.models.stable_diffusion": module}):
        return tfdp.synthesis.stable_diffusion_unet(*args, **kwargs)


def denoising_network():
    latent = keras.Input((8, 8, 4), name="latent")
    others = keras.Input((6,), name="timestep_embedding"), keras.Input((3, 5), name="context")
    numbers = keras.layers.Concatenate()([keras.layers.Flatten()(other) for other in others])
    added = keras.layers.Reshape((8, 8, 4))(keras.layers.Dense(8 * 8 * 4)(numbers))
    return keras.Model([latent, *others], keras.layers.Add()([latent, added]))


def image_classifier(classes=2):
    return keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(classes)]
    )


BYTES, CLASSES = np.zeros((20, 8, 8, 1), "uint8"), np.repeat([0, 1], 10)
FEATURES = (None, np.zeros((5, 2)), features(9, "another"))
IMAGES = (None, "x", BYTES.astype("int64"), BYTES - 1.0, BYTES[:0], BYTES[0, 0])
LABELS = (None, "y", CLASSES[:5], CLASSES * 1.0, CLASSES - 1)
NO_FILE = (1, "", "no such file", ["file"])
CLASSIFIER = (1, "model", lambda x: x, plain_model(), image_classifier(1))
TRAINING = {
    "model": CLASSIFIER,
    "epochs": COUNT,
    "batch_size": COUNT,
    "learning_rate": POSITIVE,
    "seed": NATURAL,
}

PRIVATE_MODEL = {
    "model": (*MODEL, keras.Sequential([keras.Input((4,)), keras.layers.BatchNormalization()])),
    "physical_batch_size": (*optional(COUNT), 2**31),
    "clipping": CHOICE,
    "expected_batch_size": optional(COUNT),
    "augmentation": (1, "flip"),
    "augmentation_multiplicity": (*COUNT, 2),
}

accounting, optimizers, sampling = tfdp.accounting, tfdp.optimizers, tfdp.sampling

CASES: dict[str, Case] = {
    # Models.
    "tfdp.make_private": a(tfdp.make_private, {"model": plain_model()}, PRIVATE_MODEL),
    "tfdp.PrivateModel": a(
        tfdp.PrivateModel, {"model": plain_model()}, PRIVATE_MODEL, free=("name", "kwargs")
    ),
    "tfdp.PrivateModel.compile": a(
        lambda: tfdp.make_private(plain_model()).compile,
        {
            "optimizer": optimizers.VectorizedDPKerasSGDOptimizer(1.0, 1.0),
            "loss": "mse",
        },
        {
            "optimizer": (None, 1.0, "sgd", keras.optimizers.SGD()),
            "loss": (None,),
            "steps_per_execution": COUNT,
            "jit_compile": (None, 2, "yes"),
            "gradient_norm_metrics": (None, 2, "yes"),
        },
        free=(
            "loss_weights",
            "metrics",
            "weighted_metrics",
            "run_eagerly",
            "auto_scale_loss",
        ),
        fresh=True,
    ),
    "tfdp.PrivateModel.fit": a(
        lambda: compiled().fit,
        {"x": X, "y": Y, "batch_size": 2, "epochs": 1, "verbose": 0},
        {
            "x": (None, "x", iter([X]), BATCHES, *ARRAYS, X[:5]),
            "y": (Y[:5], "y"),
            "sample_weight": (np.ones(5), "w"),
            "batch_size": (*optional(COUNT), 7),
            "epochs": NATURAL,
            "steps_per_epoch": optional(COUNT),
            "initial_epoch": NATURAL,
            "validation_split": (*PROBABILITY, 1.0),
            "class_weight": ("w", {0: -math.inf}, {0: math.nan}, {0: "w"}, {"a": 1.0}),
        },
        free=(
            "verbose",
            "callbacks",
            "validation_data",
            "shuffle",
            "validation_steps",
            "validation_batch_size",
            "validation_freq",
        ),
        fresh=True,
    ),
    "tfdp.PrivateModel.privacy_statement": a(
        lambda: compiled().privacy_statement, {"delta": 1e-5}, {"delta": DELTA}, fresh=True
    ),
    "tfdp.PrivateModel.remaining_steps": a(
        lambda: compiled(expected_batch_size=2).remaining_steps,
        {"target_epsilon": 3.0, "delta": 1e-5},
        {
            "target_epsilon": NON_NEGATIVE_OR_INFINITE,
            "delta": DELTA,
            "accountant": CHOICE,
        },
        fresh=True,
    ),
    "tfdp.replace_batch_normalization": a(
        tfdp.replace_batch_normalization,
        {"model": plain_model()},
        {"model": MODEL, "groups": COUNT},
    ),
    "tfdp.validate": a(
        tfdp.validate,
        {"model": plain_model(), "batch": X},
        {"model": MODEL, "batch": (None, "x", (), X[:1], X[[0, 0]], [[1.0, 2.0]], *ARRAYS[1:])},
    ),
    # Accounting.
    "tfdp.accounting.epsilon": a(accounting.epsilon, SETUP, BAD_SETUP),
    "tfdp.accounting.noise_multiplier": a(
        accounting.noise_multiplier,
        {"target_epsilon": 3.0, **without(SETUP, "noise_multiplier")},
        {
            "target_epsilon": POSITIVE_OR_INFINITE,
            **without(BAD_SETUP, "noise_multiplier"),
            "sampling_probability": SAMPLING_RATE,
            "beside": (
                "x",
                1.0,
                dp_accounting.UnsupportedDpEvent(),
                accounting.dp_sgd_event(0.1, 1.0),
            ),
        },
    ),
    "tfdp.accounting.noise_multiplier_for": a(
        accounting.noise_multiplier_for,
        {
            "target_epsilon": 3.0,
            "num_examples": 100,
            "batch_size": 10,
            "epochs": 1,
            "delta": 1e-5,
        },
        {
            "target_epsilon": POSITIVE_OR_INFINITE,
            "num_examples": COUNT,
            "batch_size": (*COUNT, 101),
            "epochs": NON_NEGATIVE,
            "delta": DELTA,
            "accountant": CHOICE,
        },
    ),
    "tfdp.accounting.steps": a(
        accounting.steps,
        {"target_epsilon": 3.0, **without(SETUP, "steps")},
        {"target_epsilon": POSITIVE_OR_INFINITE, **without(BAD_SETUP, "steps")},
    ),
    "tfdp.accounting.steps_in_epochs": a(
        accounting.steps_in_epochs,
        {"epochs": 1.0, "sampling_probability": 0.1},
        {"epochs": NON_NEGATIVE, "sampling_probability": SAMPLING_RATE},
    ),
    "tfdp.accounting.batch_size": a(
        accounting.batch_size,
        {
            "target_epsilon": 3.0,
            "num_examples": 100,
            **without(SETUP, "sampling_probability"),
        },
        {
            "target_epsilon": POSITIVE_OR_INFINITE,
            "num_examples": COUNT,
            **without(BAD_SETUP, "sampling_probability"),
        },
    ),
    "tfdp.accounting.dp_sgd_event": a(
        accounting.dp_sgd_event,
        SAMPLED,
        {
            "noise_multiplier": NON_NEGATIVE,
            "sampling_probability": PROBABILITY,
            "microbatch_size": COUNT,
        },
    ),
    "tfdp.accounting.fixed_size_dp_sgd_event": a(
        accounting.fixed_size_dp_sgd_event,
        {"noise_multiplier": 1.0, "batch_size": 10, "num_examples": 100},
        {
            "noise_multiplier": NON_NEGATIVE,
            "batch_size": (*COUNT, 101),
            "num_examples": COUNT,
            "microbatch_size": COUNT,
        },
    ),
    "tfdp.accounting.truncated_dp_sgd_event": a(
        accounting.truncated_dp_sgd_event,
        {**SAMPLED, "num_examples": 1000, "capacity": 30},
        {
            "noise_multiplier": NON_NEGATIVE,
            "sampling_probability": PROBABILITY,
            "num_examples": COUNT,
            "capacity": COUNT,
            "microbatch_size": COUNT,
        },
    ),
    "tfdp.accounting.overflow_probability": a(
        accounting.overflow_probability,
        {"num_examples": 1000, "sampling_probability": 0.01, "capacity": 30},
        {"num_examples": COUNT, "sampling_probability": PROBABILITY, "capacity": NATURAL},
    ),
    "tfdp.accounting.capacity_for": a(
        accounting.capacity_for,
        {"num_examples": 1000, "sampling_probability": 0.01},
        {
            "num_examples": COUNT,
            "sampling_probability": PROBABILITY,
            "overflow_probability": DELTA,
        },
    ),
    "tfdp.accounting.zcdp_epsilon": a(
        accounting.zcdp_epsilon, {"rho": 0.1, "delta": 1e-5}, {"rho": NON_NEGATIVE, "delta": DELTA}
    ),
    "tfdp.accounting.PrivacyLedger": a(accounting.PrivacyLedger),
    "tfdp.accounting.PrivacyLedger.charge": a(
        lambda: ledger().charge,
        {"event": EVENT_OF_A_STEP},
        {
            "event": EVENT,
            "count": NATURAL,
            "description": TEXT,
            "details": ("text", 1, {1: "a"}, {"a": None}, {"a": math.nan}, {"a": [1]}),
            "estimate": optional(EVENT),
        },
        fresh=True,
    ),
    "tfdp.accounting.PrivacyLedger.epsilon": a(
        ledger().epsilon, {"delta": 1e-5}, {"delta": DELTA, "accountant": CHOICE}
    ),
    "tfdp.accounting.PrivacyLedger.delta": a(
        ledger().delta,
        {"epsilon": 1.0},
        {"epsilon": NON_NEGATIVE_OR_INFINITE, "accountant": CHOICE},
    ),
    "tfdp.accounting.PrivacyLedger.curve": a(
        ledger().curve,
        {"deltas": [1e-5]},
        {"deltas": ("1", 1e-5, [], *([value] for value in DELTA)), "accountant": CHOICE},
    ),
    "tfdp.accounting.PrivacyLedger.epsilon_after": a(
        ledger().epsilon_after,
        {"event": EVENT_OF_A_STEP, "count": 1, "delta": 1e-5},
        {"event": EVENT, "count": NATURAL, "delta": DELTA, "accountant": CHOICE},
    ),
    "tfdp.accounting.PrivacyLedger.remaining_steps": a(
        ledger().remaining_steps,
        {"event": EVENT_OF_A_STEP, "target_epsilon": 3.0, "delta": 1e-5},
        {
            "event": EVENT,
            "target_epsilon": NON_NEGATIVE_OR_INFINITE,
            "delta": DELTA,
            "accountant": CHOICE,
        },
    ),
    "tfdp.accounting.PrivacyLedger.mark_not_private": a(
        lambda: ledger().mark_not_private, {"reason": "a test"}, {"reason": TEXT}, fresh=True
    ),
    "tfdp.accounting.PrivacyLedger.statement": a(
        ledger().statement, {"delta": 1e-5}, {"delta": DELTA}
    ),
    "tfdp.accounting.PrivacyLedger.from_json": a(
        accounting.PrivacyLedger.from_json,
        {"text": ledger().to_json()},
        {"text": (None, 1, b"{}", "", "{}", "[]", "no JSON")},
    ),
    "tfdp.accounting.PrivacyLedger.union": a(
        ledger().union, {"other": ledger()}, {"other": (None, 1, "ledger", {})}
    ),
    # Planning.
    "tfdp.tan.eta": a(
        tfdp.tan.eta,
        without(SETUP, "delta"),
        {"noise_multiplier": NON_NEGATIVE, "sampling_probability": PROBABILITY, "steps": NATURAL},
    ),
    "tfdp.tan.epsilon_tan": a(
        tfdp.tan.epsilon_tan,
        {"eta": 0.5, "delta": 1e-5},
        {"eta": NON_NEGATIVE_OR_INFINITE, "delta": DELTA},
    ),
    "tfdp.tan.Run": a(
        tfdp.tan.Run,
        RUN,
        {
            "num_examples": COUNT,
            "batch_size": (*COUNT, 1001),
            "noise_multiplier": POSITIVE,
            "steps": COUNT,
            "learning_rate": POSITIVE,
            "delta": DELTA,
        },
    ),
    "tfdp.tan.Run.epsilon": a(tfdp.tan.Run(**RUN).epsilon, {}, {"accountant": CHOICE}),
    "tfdp.tan.Run.at_batch_size": a(
        tfdp.tan.Run(**RUN).at_batch_size, {"batch_size": 1}, {"batch_size": (*COUNT, 1001)}
    ),
    "tfdp.tan.Run.trade_steps": a(
        tfdp.tan.Run(**RUN).trade_steps, {"factor": 2}, {"factor": POSITIVE}
    ),
    "tfdp.tan.plan": a(
        tfdp.tan.plan,
        {"target_epsilon": 3.0, "delta": 1e-5, "num_examples": 10_000},
        {
            "target_epsilon": POSITIVE,
            "delta": DELTA,
            "num_examples": COUNT,
            "max_batch_size": optional((*COUNT, 10_001)),
            "compute_budget": optional((*COUNT, 100)),
            "learning_rate": POSITIVE,
            "simulate_at": optional((*COUNT, 10_001)),
            "noise_multipliers": (1.0, None, [], "ab", ["a"], [0.0]),
            "accountant": CHOICE,
        },
    ),
    "tfdp.simulation.LogUniform": a(
        tfdp.simulation.LogUniform,
        {"low": 1.0, "high": 2.0},
        {"low": POSITIVE, "high": (*POSITIVE, 1.0)},
    ),
    "tfdp.simulation.search": a(
        tfdp.simulation.search,
        {
            "train": simulated_training.train,
            "space": {"rate": [1], "kind": ["a"]},
            "output_dir": tempfile.mkdtemp(),
        },
        {
            "train": (None, 1, "train"),
            "space": (None, {}, {"rate": 1}),
            "output_dir": (None, 1, ""),
            "trials": optional(COUNT),
            "workers": COUNT,
            "seed": INTEGER,
        },
    ),
    # Clipping and noise.
    "tfdp.clipping.ClipBound": a(
        tfdp.clipping.ClipBound,
        {"l2_norm_clip": 1.0},
        {
            "l2_norm_clip": (*without_lists(POSITIVE_OR_INFINITE), [], {}, {"layer": -1.0}),
            "automatic_gamma": optional(POSITIVE),
        },
    ),
    "tfdp.clipping.register_rule": a(
        tfdp.clipping.register_rule,
        {"layer_class": type("Own", (keras.layers.Layer,), {})},
        {"layer_class": (None, "Dense", keras.layers.Dense(2), int)},
    ),
    "tfdp.noise.GaussianNoise": a(tfdp.noise.GaussianNoise, bad={"seed": optional(INTEGER)}),
    "tfdp.noise.GaussianNoise.add": a(
        tfdp.noise.GaussianNoise(1).add,
        {"tensors": [tf.zeros([2])], "stddev": 1.0},
        {"stddev": NON_NEGATIVE, "replicas": COUNT},
        free=("tensors",),
    ),
    "tfdp.noise.DiscreteGaussianNoise": a(
        tfdp.noise.DiscreteGaussianNoise, {"sensitivity": 1.0}, {"sensitivity": POSITIVE}
    ),
    "tfdp.noise.DiscreteGaussianNoise.add": a(
        tfdp.noise.DiscreteGaussianNoise(1.0).add,
        {"tensors": [tf.zeros([2])], "stddev": 1.0},
        {"stddev": (*NON_NEGATIVE, 1e-300), "replicas": (*COUNT, 2)},
        free=("tensors",),
    ),
    "tfdp.noise.DiscreteGaussianNoise.grid": a(
        tfdp.noise.DiscreteGaussianNoise(1.0).grid,
        {"stddev": 1.0},
        {"stddev": (*POSITIVE, 1e-300)},
    ),
    "tfdp.optimizers.VectorizedDPKerasSGDOptimizer": optimizer_case(
        optimizers.VectorizedDPKerasSGDOptimizer
    ),
    "tfdp.optimizers.VectorizedDPKerasAdamOptimizer": optimizer_case(
        optimizers.VectorizedDPKerasAdamOptimizer
    ),
    "tfdp.optimizers.VectorizedDPKerasAdagradOptimizer": optimizer_case(
        optimizers.VectorizedDPKerasAdagradOptimizer
    ),
    "tfdp.optimizers.make_vectorized_keras_optimizer_class": a(
        optimizers.make_vectorized_keras_optimizer_class,
        {"cls": keras.optimizers.Lion},
        {"cls": (None, "sgd", keras.optimizers.SGD(), int)},
    ),
    # Sampling.
    "tfdp.sampling.PoissonDataset": a(
        sampling.PoissonDataset,
        {"x": X, "y": Y, **DRAWN},
        {
            "x": (None, "x", 1.0, *ARRAYS, X[:5]),
            "y": ("y", 1.0, Y[:5], *ARRAYS[:2]),
            "sample_weight": ("w", 1.0, np.ones(5)),
            **BAD_DRAWN,
        },
    ),
    "tfdp.sampling.PoissonDataset.from_source": a(
        sampling.PoissonDataset.from_source,
        {"source": list(X), **DRAWN},
        {
            "source": (None, 1, iter(X), [], ["text"], [None]),
            "transform": (1, "x", lambda x: None, lambda x: "text"),
            "num_workers": optional(COUNT),
            **BAD_DRAWN,
        },
    ),
    "tfdp.sampling.PoissonDataset.first_examples": a(
        poisson().first_examples, {"count": 1}, {"count": COUNT}
    ),
    "tfdp.sampling.public": a(
        sampling.public,
        {"x": X, "y": Y},
        {
            "x": (None, "x", 1.0, *ARRAYS, X[:5]),
            "y": ("y", 1.0, Y[:5], *ARRAYS[:2]),
            "sample_weight": ("w", 1.0, np.ones(5)),
        },
    ),
    "tfdp.sampling.PoissonDataset.as_batches": a(
        poisson().as_batches, {"steps": 1}, {"steps": COUNT}
    ),
    "tfdp.sampling.declare": a(
        sampling.declare,
        {"dataset": BATCHES, "num_examples": 6, "batch_size": 2, "sampling": "shuffled"},
        {
            "dataset": (None, X, [X], "data"),
            "num_examples": (*COUNT, 100),
            "batch_size": (*COUNT, 7, 3),
            "sampling": CHOICE,
        },
    ),
    # Selection and adapters.
    "tfdp.saliency.select": a(
        tfdp.saliency.select,
        {
            "model": adaptable(),
            "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "data": (X, Y),
            "score_noise_multiplier": 1.0,
            "candidates": "all_matrices",
        },
        {
            "model": (*MODEL, keras.Sequential([keras.layers.Dense(2)])),
            "loss": (None, "no loss", 1.0),
            "data": (None, X, (X,), (X, Y[:5]), (None, Y), ("x", Y), (X, "y"), (X, Y, Y)),
            "fraction": SAMPLING_RATE,
            "l2_norm_clip": (*POSITIVE, 1e-200, 1e200),
            "score_noise_multiplier": NON_NEGATIVE,
            "sampling_probability": SAMPLING_RATE,
            "candidates": (
                None,
                1,
                "another",
                [],
                ["absent"],
                [1],
                "attention",
                lambda layer: None,
                lambda layer: False,
            ),
            "mechanism": CHOICE,
            "physical_batch_size": (*optional(COUNT), 2**31),
            "seed": optional(INTEGER),
            "verbose": (None, 2, "yes"),
        },
    ),
    "tfdp.saliency.Selection.charge": a(
        selection().charge, {"ledger": ledger()}, {"ledger": (None, 1, "ledger", {})}
    ),
    "tfdp.saliency.Selection.plot": a(
        selection().plot,
        {"path": os.path.join(tempfile.mkdtemp(), "scores.png")},
        {"path": (None, 1, "")},
    ),
    "tfdp.saliency.Selection.from_json": a(
        tfdp.saliency.Selection.from_json,
        {"text": selection().to_json()},
        {"text": (None, 1, b"{}", "", "{}", "[]", "no JSON")},
    ),
    "tfdp.lora.enable": a(
        tfdp.lora.enable,
        {"model": adaptable(), "layers": ["dense"], "rank": 1},
        {
            "model": (*MODEL, keras.Sequential([keras.layers.Dense(2)])),
            "layers": (None, 1, "dense", [], ["absent"], [1], [None], {"dense": 1}),
            "rank": COUNT,
            "alpha": optional(POSITIVE),
        },
    ),
    "tfdp.lora.trainable_parameters": a(
        tfdp.lora.trainable_parameters, {"model": adaptable()}, {"model": MODEL}
    ),
    "tfdp.lora.adapted_layers": a(tfdp.lora.adapted_layers, {"model": adapted()}, {"model": MODEL}),
    "tfdp.lora.merge": a(tfdp.lora.merge, {"model": adapted()}, {"model": (*MODEL, adaptable())}),
    "tfdp.lora.save_adapters": a(
        tfdp.lora.save_adapters,
        {"model": adapted(), "path": adapters_file()},
        {"model": (*MODEL, adaptable()), "path": (None, 1, "")},
    ),
    "tfdp.lora.load_adapters": a(
        tfdp.lora.load_adapters,
        {"model": adapted(), "path": adapters_file()},
        {"model": (*MODEL, adaptable()), "path": (None, 1, "", __file__)},
    ),
    # Callbacks.
    "tfdp.callbacks.SimulatedAnnealing": a(
        tfdp.callbacks.SimulatedAnnealing,
        {"temperature_factor": 10.0, "max_rejections": 5},
        {"temperature_factor": POSITIVE, "max_rejections": NATURAL},
    ),
    "tfdp.callbacks.NoisyThreshold": a(
        tfdp.callbacks.NoisyThreshold,
        {"clip": 0.1, "threshold": -1.0, "noise_multiplier": 1.0, "sampling_probability": 0.1},
        {
            "clip": POSITIVE,
            "threshold": REAL,
            "noise_multiplier": POSITIVE,
            "sampling_probability": SAMPLING_RATE,
            "difference": CHOICE,
        },
    ),
    "tfdp.callbacks.UpdateScreening": a(
        tfdp.callbacks.UpdateScreening,
        {
            "rule": tfdp.callbacks.SimulatedAnnealing(),
            "evaluation_data": tfdp.sampling.public(X, Y),
        },
        {
            "rule": (None, "annealing", tfdp.callbacks.SimulatedAnnealing),
            "evaluation_data": (None, (X, Y), poisson()),
            "charge": CHOICE,
            "evaluation_batch_size": COUNT,
            "restore_optimizer": (None, 1.0, "no"),
            "each": CHOICE,
            "decisions": optional(COUNT),
        },
    ),
    "tfdp.distribution.strategy": a(
        tfdp.distribution.strategy,
        {"name": "none"},
        {"name": CHOICE, "devices": (["CPU:0"], "CPU:0", []), "tpu": ("local", "", 1)},
    ),
    "tfdp.callbacks.BackupAndRestore": a(
        tfdp.callbacks.BackupAndRestore,
        {"backup_dir": "somewhere"},
        {"backup_dir": ("", None)},
        free=("kwargs",),
    ),
    "tfdp.callbacks.PrivacyBudget": a(
        tfdp.callbacks.PrivacyBudget,
        {"target_epsilon": 3.0, "delta": 1e-5},
        {"target_epsilon": optional(POSITIVE), "delta": DELTA, "accountant": CHOICE},
    ),
    "tfdp.callbacks.PrivacyBudget.total_steps": a(
        tfdp.callbacks.PrivacyBudget(3.0, 1e-5).total_steps,
        SAMPLED,
        {"noise_multiplier": NON_NEGATIVE, "sampling_probability": PROBABILITY},
    ),
    "tfdp.callbacks.PrivacyLog": a(
        tfdp.callbacks.PrivacyLog,
        {"delta": 1e-5},
        {"delta": DELTA, "accountant": CHOICE, "csv_path": (1, ["log"]), "log_dir": (1, ["logs"])},
    ),
    # Synthesis.
    "tfdp.synthesis.Features": a(
        tfdp.synthesis.Features,
        {"extractor": "test", "values": np.zeros((3, 2))},
        {
            "extractor": TEXT,
            "values": (None, "x", np.zeros(3), np.zeros((0, 2)), [[math.nan]], [[math.inf]]),
        },
    ),
    "tfdp.synthesis.FeatureExtractor": a(
        tfdp.synthesis.FeatureExtractor,
        {"name": "test", "model": image_classifier()},
        {"name": TEXT, "model": (*MODEL, plain_model()), "batch_size": COUNT},
    ),
    "tfdp.synthesis.StableDiffusionDenoiser": a(
        tfdp.synthesis.StableDiffusionDenoiser,
        {"unet": denoising_network()},
        {"unet": (*MODEL, plain_model()), "seed": optional(NATURAL)},
        free=("kwargs",),
    ),
    "tfdp.synthesis.classifier_features": a(
        tfdp.synthesis.classifier_features,
        {
            "name": "zeros",
            "public": sampling.public(BYTES, CLASSES),
            "model": image_classifier(),
            "epochs": 1,
        },
        {
            "name": TEXT,
            "public": (
                None,
                (BYTES, CLASSES),
                sampling.public(BYTES),
                sampling.public(X, Y),
                sampling.public(BYTES[:9], CLASSES[:9]),
                sampling.public({"images": BYTES}, CLASSES),
            ),
            **TRAINING,
        },
    ),
    "tfdp.synthesis.closest_pairs": a(
        tfdp.synthesis.closest_pairs,
        {
            "synthetic": features(3),
            "training": features(4),
            "synthetic_images": BYTES[:3],
            "training_images": BYTES[:4],
        },
        {
            "synthetic": (None, np.zeros((3, 2))),
            "training": FEATURES,
            "synthetic_images": (*IMAGES, BYTES),
            "training_images": (*IMAGES, BYTES),
            "pairs": COUNT,
        },
    ),
    "tfdp.synthesis.copy_check": a(
        tfdp.synthesis.copy_check,
        {"synthetic": features(3), "training": features(4), "held_out": features(5)},
        {
            "synthetic": (None, np.zeros((3, 2))),
            "training": (*FEATURES, features(1)),
            "held_out": (*FEATURES, features(1)),
            "resamples": COUNT,
            "confidence": DELTA,
            "seed": NATURAL,
        },
    ),
    "tfdp.synthesis.downstream_accuracy": a(
        tfdp.synthesis.downstream_accuracy,
        {
            "synthetic_x": BYTES,
            "synthetic_y": CLASSES,
            "test_x": BYTES,
            "test_y": CLASSES,
            "model": image_classifier(),
            "epochs": 1,
        },
        {
            "synthetic_x": IMAGES,
            "synthetic_y": (*LABELS, np.arange(20)),
            "test_x": (*IMAGES, BYTES[:, :4]),
            "test_y": LABELS,
            "shift": (*NATURAL, 8),
            **TRAINING,
        },
    ),
    "tfdp.synthesis.frechet_distance": a(
        tfdp.synthesis.frechet_distance,
        {"real": features(3), "synthetic": features(4)},
        {
            "real": (None, np.zeros((5, 2)), features(2)),
            "synthetic": (*FEATURES, features(2)),
        },
    ),
    "tfdp.synthesis.gaussian_frechet_distance": a(
        tfdp.synthesis.gaussian_frechet_distance,
        {
            "mean_1": np.zeros(2),
            "covariance_1": np.eye(2),
            "mean_2": np.zeros(2),
            "covariance_2": np.eye(2),
        },
        {
            "mean_1": ("x", 0.0, np.zeros((2, 2)), [math.nan, 0.0], []),
            "covariance_1": ("x", 1.0, np.eye(3), -np.eye(2), [[1.0, 1.0], [0.0, 1.0]]),
            "mean_2": ("x", 0.0, np.zeros(3), [math.inf, 0.0]),
            "covariance_2": ("x", 1.0, np.eye(3), -np.eye(2), np.eye(2) * math.nan),
        },
    ),
    "tfdp.synthesis.grid": a(
        tfdp.synthesis.grid,
        {"images": BYTES, "labels": CLASSES},
        {"images": IMAGES, "labels": optional(LABELS), "columns": COUNT},
    ),
    "tfdp.synthesis.inception_features": a(
        small_inception,
        {"weights": __file__, "image_shape": (8, 8, 1)},
        {"weights": (None, *NO_FILE), "image_shape": (*SHAPE, (8, 8), (8, 8, 2))},
    ),
    "tfdp.synthesis.pixel_features": a(
        tfdp.synthesis.pixel_features,
        {"image_shape": (8, 8, 1)},
        {"image_shape": (*SHAPE, (8, 8))},
    ),
    "tfdp.synthesis.precision_recall": a(
        tfdp.synthesis.precision_recall,
        {"real": features(5), "synthetic": features(6)},
        {
            "real": (None, np.zeros((5, 2))),
            "synthetic": FEATURES,
            "neighbors": (*COUNT, 5),
        },
    ),
    "tfdp.synthesis.stable_diffusion_unet": a(
        stand_in_for_stable_diffusion,
        bad={
            "image_height": (*COUNT, 100),
            "image_width": (*COUNT, 100),
            "text_length": COUNT,
            "weights": NO_FILE,
        },
    ),
    # Statistics.
    "tfdp.statistics.measure": a(
        tfdp.statistics.measure,
        {"x": X, "l2_norm_clip": 1.0, "noise_multiplier": 1.0, "num_directions": 2},
        {
            "x": (None, "ab", 1.0, X[:0], X[0], X.astype("complex64"), [["a"]]),
            "l2_norm_clip": POSITIVE,
            "noise_multiplier": NON_NEGATIVE,
            "num_directions": (*NATURAL, 5),
            "centred_norm_clip": optional(POSITIVE),
            "seed": optional(INTEGER),
        },
    ),
    "tfdp.statistics.measure_event": a(
        tfdp.statistics.measure_event,
        {"noise_multiplier": 1.0},
        {"noise_multiplier": NON_NEGATIVE, "num_directions": NATURAL},
    ),
    "tfdp.statistics.Statistics.charge": a(
        statistics().charge, {"ledger": ledger()}, {"ledger": (None, 1, "ledger", {})}
    ),
    "tfdp.statistics.Statistics.layer": a(statistics().layer, free=("kwargs",)),
    # Layers and models.
    "tfdp.layers.PrincipalScaling": a(
        tfdp.layers.PrincipalScaling, bad={"num_directions": NATURAL}, free=("kwargs",)
    ),
    "tfdp.layers.PrincipalScaling.set_statistics": a(
        scaling().set_statistics,
        {"mean": np.zeros(4), "directions": np.zeros((4, 1)), "factors": np.ones(1)},
        {
            "mean": (None, "ab", 1.0, np.zeros(3)),
            "directions": (None, "ab", 1.0, np.zeros(4)),
            "factors": (None, "ab", 1.0, np.ones(2)),
        },
    ),
    "tfdp.layers.Scattering2D": a(
        tfdp.layers.Scattering2D,
        bad={"J": COUNT, "L": COUNT, "max_order": (*COUNT, 3)},
        free=("kwargs",),
    ),
    "tfdp.layers.Deslant2D": a(
        tfdp.layers.Deslant2D, bad={"max_slant": POSITIVE}, free=("kwargs",)
    ),
    "tfdp.layers.PatchFeatures2D": a(
        tfdp.layers.PatchFeatures2D,
        bad={
            "filters": COUNT,
            "patch_size": (*COUNT, 1, 17),
            "threshold": NON_NEGATIVE,
            "cells": COUNT,
            "whitening_epsilon": POSITIVE,
            "mirrored": (None, 1, "yes"),
            "seed": NATURAL,
        },
        free=("kwargs",),
    ),
    "tfdp.layers.PositionEmbedding": a(
        tfdp.layers.PositionEmbedding, bad={"initializer": ACTIVATION}, free=("kwargs",)
    ),
    "tfdp.layers.SkipInit": a(tfdp.layers.SkipInit, bad={"initial_value": REAL}, free=("kwargs",)),
    "tfdp.layers.RandomApply": a(
        tfdp.layers.RandomApply,
        {"layer": keras.layers.RandomFlip()},
        bad={"layer": (None, "flip", lambda x: x), "rate": PROBABILITY},
        free=("seed", "kwargs"),
    ),
    "tfdp.layers.RandomShift": a(
        tfdp.layers.RandomShift, bad={"padding": (*NATURAL, 2**30)}, free=("seed", "kwargs")
    ),
    "tfdp.layers.TemperedSigmoid": a(
        tfdp.layers.TemperedSigmoid,
        bad={"scale": POSITIVE, "temperature": POSITIVE, "offset": REAL},
        free=("kwargs",),
    ),
    "tfdp.layers.tempered_sigmoid": a(
        tfdp.layers.tempered_sigmoid,
        {"x": np.zeros(2)},
        {"scale": POSITIVE, "temperature": POSITIVE, "offset": REAL},
        free=("x",),
    ),
    "tfdp.layers.WeightStandardizedConv2D": a(
        tfdp.layers.WeightStandardizedConv2D,
        {"filters": 2, "kernel_size": 3},
        {
            "filters": COUNT,
            "kernel_size": (None, 0, -1, (3,), (3, -1), "ab"),
            "use_gain": (None, 1, "yes"),
            "epsilon": POSITIVE,
        },
        free=("kwargs",),
    ),
    "tfdp.models.cifar_cnn": model_case(
        tfdp.models.cifar_cnn, variant=CHOICE, normalize=(None, 1, "yes")
    ),
    "tfdp.models.digits_mlp": model_case(tfdp.models.digits_mlp),
    "tfdp.models.mnist_cnn": model_case(tfdp.models.mnist_cnn, standardize=(None, 1, "yes")),
    "tfdp.models.scattering_cnn": model_case(tfdp.models.scattering_cnn, variant=CHOICE),
    "tfdp.models.patch_cnn": model_case(tfdp.models.patch_cnn, filters=COUNT),
    "tfdp.models.nf_resnet50": a(
        tfdp.models.nf_resnet50,
        {"input_shape": (16, 16, 3), "depths": (1,), "widths": (8,)},
        {
            **BAD_IMAGES,
            "depths": (None, 1, "a", (), (0,), (1.0,), (True,)),
            "widths": (None, 8, "a", (), (0,), (8.0,), (6,), (8, 8)),
            "stem_width": COUNT,
            "alpha": POSITIVE,
        },
    ),
    "tfdp.models.vit_small": a(
        tfdp.models.vit_small,
        {"input_shape": (32, 32, 3), "dim": 12, "depth": 1},
        {
            **BAD_IMAGES,
            "input_shape": (*SHAPE, (32, 32), (32, 40, 3)),
            "patch_size": COUNT,
            "dim": (*COUNT, 10),
            "depth": COUNT,
            "heads": COUNT,
            "mlp_ratio": COUNT,
        },
    ),
    "tfdp.models.wide_resnet": a(
        tfdp.models.wide_resnet,
        {"depth": 10, "width": 1},
        {
            **BAD_IMAGES,
            "depth": (*COUNT, 4, 11),
            "width": COUNT,
            "groups": (*COUNT, 3, 32),
            "shortcut": CHOICE,
            "weight_standardization": (None, 1, "yes"),
        },
    ),
}
CASES |= {
    "tfdp.synthesis.attention_unet": a(
        tfdp.synthesis.attention_unet,
        {"image_shape": (8, 8, 1), "num_classes": 2, "widths": (4, 4)},
        {
            "image_shape": (*SHAPE, (32, 32), (30, 32, 3), (32, 30, 3)),
            "num_classes": COUNT,
            "widths": (None, 8, "ab", (), (4, 0), (4, 4.0), (4, 4, 4), (4, 6)),
            "attention": (None, True, "yes", (True,), (False, 1), (False, True, True)),
            "blocks": COUNT,
            "heads": (*COUNT, 3),
            "class_tokens": (*COUNT, 1),
            "patch_size": (*COUNT, 3),
        },
    ),
    "tfdp.synthesis.NoiseSchedule": a(
        tfdp.synthesis.NoiseSchedule,
        {},
        {"steps": (*COUNT, 20), "kind": CHOICE, "prediction": CHOICE},
    ),
    "tfdp.synthesis.Denoiser": a(
        tfdp.synthesis.Denoiser,
        {"unet": UNET, "num_classes": 2},
        {
            "unet": (*MODEL, plain_model()),
            "num_classes": COUNT,
            "schedule": ("cosine", 1000, tfdp.synthesis.NoiseSchedule),
            "label_dropout": PROBABILITY,
            "seed": optional(NATURAL),
        },
        free=("kwargs",),
    ),
    "tfdp.synthesis.Denoiser.draw": a(
        lambda: tfdp.synthesis.Denoiser(UNET, 2).draw,
        {"images": np.zeros((2, 8, 8, 1)), "labels": np.zeros(2, int)},
        free=("images", "labels", "training"),
        fresh=True,
    ),
    "tfdp.synthesis.DenoisingLoss": a(tfdp.synthesis.DenoisingLoss, free=("name", "kwargs")),
    "tfdp.synthesis.noise_multiplicity": a(
        tfdp.synthesis.noise_multiplicity, {"draws": 2}, {"draws": COUNT}
    ),
    "tfdp.synthesis.sample": a(
        tfdp.synthesis.sample,
        {"unet": UNET, "labels": [0, 1], "num_classes": 2, "steps": 1, "verbose": 0},
        {
            "unet": (*MODEL, plain_model()),
            "labels": (None, 1, [], [0.5], [-1], [3], [[1]], "ab"),
            "num_classes": COUNT,
            "schedule": ("cosine", 1000, tfdp.synthesis.NoiseSchedule),
            "steps": (*COUNT, 1001),
            "guidance": NON_NEGATIVE,
            "eta": PROBABILITY,
            "batch_size": COUNT,
            "seed": optional(NATURAL),
            "verbose": (None, "another", 2, True),
        },
    ),
    "tfdp.synthesis.to_bytes": a(
        tfdp.synthesis.to_bytes,
        {"images": np.zeros((1, 2, 2, 1))},
        {"images": (None, "ab", np.zeros((1, 2, 2, 1), "uint8"))},
    ),
    "tfdp.synthesis.to_unit_range": a(
        tfdp.synthesis.to_unit_range,
        {"images": np.zeros((1, 2, 2, 1), "uint8")},
        {"images": (None, "ab", np.zeros((1, 2, 2, 1)))},
    ),
}

GUESSED = {"correct": 8, "guesses": 9, "canaries": 10}
BAD_GUESSED = {
    "correct": (*NATURAL, 10),
    "guesses": (*NATURAL, 11),
    "canaries": COUNT,
    "delta": PROBABILITY,
}
SCORES, COINS = np.arange(4.0), np.array([True, False, True, False])
SCORE_VECTOR = (None, "abc", [], [[1.0]], [1.0, math.nan], ["a"], [1.0, [2.0]], np.zeros(4, bool))
COIN_VECTOR = (None, "abc", COINS[:3], COINS * 1, COINS[None])
LABEL_VECTOR = (None, "abc", Y[:5], Y * 1.0, Y - 1, Y[None])
EXAMPLES = (None, "x", np.zeros((0, 4)), np.array("text"), 1.0)
CLAIM = ("1", [1.0], True, math.nan, -1.0)


def canaries():
    coins = np.array([True, False, True, False, True, False])
    return tfdp.auditing.InsertedCanaries(X, Y, coins)


@functools.cache  # Audits do not change it.
def audited():
    result = tfdp.auditing.AuditedModel(plain_model(), canaries=3, expected_batch_size=2)
    result.compile(
        tfdp.optimizers.VectorizedDPKerasSGDOptimizer(1.0, 1.0, learning_rate=0.1),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    result.train_on_batch(X, Y)
    return result


CASES |= {
    "tfdp.auditing.guesses_p_value": a(
        tfdp.auditing.guesses_p_value,
        {**GUESSED, "epsilon": 1.0},
        {**BAD_GUESSED, "epsilon": NON_NEGATIVE},
    ),
    "tfdp.auditing.epsilon_from_guesses": a(
        tfdp.auditing.epsilon_from_guesses, GUESSED, {**BAD_GUESSED, "confidence": DELTA}
    ),
    "tfdp.auditing.one_run_audit": a(
        tfdp.auditing.one_run_audit,
        {"scores": SCORES, "included": COINS, "delta": 1e-5},
        {
            "scores": SCORE_VECTOR,
            "included": COIN_VECTOR,
            "delta": (*PROBABILITY, 1.0),
            "guesses": (1, "ab", [], [1], [(5, 0)], [(0, 0)], [(1.0, 1)]),
            "confidence": DELTA,
            "claimed_epsilon": CLAIM,
        },
    ),
    "tfdp.auditing.repeated_runs_audit": a(
        tfdp.auditing.repeated_runs_audit,
        {"scores_with": SCORES, "scores_without": SCORES, "delta": 1e-5},
        {
            "scores_with": (*SCORE_VECTOR, SCORES[:3]),
            "scores_without": (*SCORE_VECTOR, SCORES[:3]),
            "delta": DELTA,
            "confidence": DELTA,
            "claimed_epsilon": CLAIM,
        },
    ),
    "tfdp.auditing.scores_of_runs": a(
        tfdp.auditing.scores_of_runs,
        {"train": float, "runs": 2},
        {"train": (None, 1.0, lambda there: None, lambda there: math.nan), "runs": COUNT},
    ),
    "tfdp.auditing.compare_neighbours": a(
        tfdp.auditing.compare_neighbours,
        {"pipeline": lambda: (tfdp.accounting.PrivacyLedger(), [1.0]), "sensitivities": [1.0]},
        {
            "pipeline": (
                None,
                1.0,
                lambda: None,
                lambda: (1.0, 2.0),
                lambda: (ledger(), [object()]),
            ),
            "sensitivities": (None, 1.0, "ab", [0.0], [-1.0], ["a"], [math.inf]),
            "seed": (*INTEGER, -1, 2**32),
        },
    ),
    "tfdp.auditing.membership_attack": a(
        tfdp.auditing.membership_attack,
        {
            "member_losses": np.zeros(6),
            "other_losses": np.zeros(6),
            "member_labels": Y,
            "other_labels": Y,
        },
        {
            "member_losses": SCORE_VECTOR,
            "other_losses": SCORE_VECTOR,
            "member_labels": LABEL_VECTOR,
            "other_labels": LABEL_VECTOR,
        },
    ),
    "tfdp.auditing.example_losses": a(
        tfdp.auditing.example_losses,
        {"model": plain_model(), "x": X, "y": Y},
        {
            "model": MODEL,
            "y": (None, "y", Y[:5], 1),
            "loss": ("mse", 1.0, keras.losses.mean_squared_error),
            "batch_size": COUNT,
        },
        free=("x",),
    ),
    "tfdp.auditing.InsertedCanaries": a(
        tfdp.auditing.InsertedCanaries,
        {"x": X[:4], "y": Y[:4], "included": COINS},
        {
            "x": (*EXAMPLES, X[:1]),
            "y": (None, "y", Y[:3], Y[:4] * 1.0, Y[:4] - 1),
            "included": COIN_VECTOR,
        },
    ),
    "tfdp.auditing.InsertedCanaries.insert": a(
        lambda: canaries().insert,
        {"x": X, "y": Y},
        {"x": (*EXAMPLES, X[:, :3]), "y": LABEL_VECTOR},
        fresh=True,
    ),
    "tfdp.auditing.InsertedCanaries.scores": a(
        lambda: canaries().scores,
        {"model": plain_model()},
        {"model": MODEL, "loss": ("mse", 1.0)},
        fresh=True,
    ),
    "tfdp.auditing.mislabelled_canaries": a(
        tfdp.auditing.mislabelled_canaries,
        {"x": X, "y": Y, "count": 3, "num_classes": 2},
        {
            "x": (*EXAMPLES, X[:1]),
            "y": (*LABEL_VECTOR, Y + 2),
            "count": (*COUNT, 1, 7),
            "num_classes": (*COUNT, 1),
            "seed": optional(NATURAL),
        },
    ),
    "tfdp.auditing.random_canaries": a(
        tfdp.auditing.random_canaries,
        {"input_shape": (4,), "count": 3, "num_classes": 2},
        {
            "input_shape": SHAPE,
            "count": (*COUNT, 1),
            "num_classes": (*COUNT, 1),
            "seed": optional(NATURAL),
        },
    ),
    "tfdp.auditing.AuditedModel": a(
        tfdp.auditing.AuditedModel,
        {"model": plain_model(), "canaries": 3},
        {
            "model": PRIVATE_MODEL["model"],
            "canaries": (*COUNT, 1, 16),
            "direction": CHOICE,
            "examples_known": (None, 1, "yes"),
            "seed": optional(NATURAL),
        },
        free=("kwargs",),
    ),
    "tfdp.auditing.AuditedModel.audit": a(
        lambda: audited().audit,
        {"delta": 1e-5},
        {
            "delta": DELTA,
            "guesses": (1, [], [(4, 0)]),
            "confidence": DELTA,
            "accountant": CHOICE,
        },
        fresh=True,
    ),
}

#: Public names that the package itself fills in: results, and parts of a training step, which get
#: the tensors of that step.
MADE_BY_THE_PACKAGE = {
    "tfdp.auditing.ClassMembership",
    "tfdp.auditing.Crossing",
    "tfdp.auditing.Guesses",
    "tfdp.auditing.MembershipAttack",
    "tfdp.auditing.NeighbourReport",
    "tfdp.auditing.OneRunAudit",
    "tfdp.auditing.RepeatedRunsAudit",
    "tfdp.auditing.ThresholdTest",
    "tfdp.callbacks.NoisyThreshold.accept",
    "tfdp.callbacks.NoisyThreshold.prepare",
    "tfdp.callbacks.NoisyThreshold.score",
    "tfdp.callbacks.NoisyThreshold.score_event",
    "tfdp.callbacks.NoisyThreshold.sensitivity",
    "tfdp.callbacks.ScreeningRule",
    "tfdp.callbacks.SimulatedAnnealing.accept",
    "tfdp.callbacks.SimulatedAnnealing.acceptance_probability",
    "tfdp.callbacks.SimulatedAnnealing.decided",
    "tfdp.callbacks.UpdateScreening.release_with_each_step",
    "tfdp.saliency.Selection",
    "tfdp.sampling.PublicData",
    "tfdp.statistics.Statistics",
    "tfdp.simulation.Search",
    "tfdp.simulation.Trial",
    "tfdp.synthesis.CopyCheck",
    "tfdp.synthesis.DownstreamAccuracy",
    "tfdp.synthesis.FrechetDistance",
    "tfdp.synthesis.PrecisionRecall",
    "tfdp.tan.Plan",
    "tfdp.sampling.PoissonDataset.as_shares",
    "tfdp.sampling.PoissonDataset.scheme_of",
    "tfdp.sampling.PoissonDataset.steps_of_epoch",
    "tfdp.accounting.PrivacyStatement",
    "tfdp.accounting.Release",
    "tfdp.accounting.ReleaseSummary",
    "tfdp.callbacks.BudgetSpentError",
    "tfdp.clipping.Call",
    "tfdp.clipping.ClipBound.resolve",
    "tfdp.clipping.ClippedGradients",
    "tfdp.clipping.Clipper",
    "tfdp.clipping.CompiledEngine",
    "tfdp.clipping.Context",
    "tfdp.clipping.Engine",
    "tfdp.clipping.Instantiated",
    "tfdp.clipping.LayerReport",
    "tfdp.clipping.OuterProduct",
    "tfdp.clipping.PerExampleGradient",
    "tfdp.clipping.PerExampleLoss",
    "tfdp.clipping.Plan",
    "tfdp.clipping.RecordingEngine",
    "tfdp.clipping.Rule",
    "tfdp.clipping.VectorizedEngine",
    "tfdp.clipping.clip_factors",
    "tfdp.clipping.clip_group_means",
    "tfdp.clipping.make_plan",
    "tfdp.clipping.summary_table",
    "tfdp.optimizers.DPOptimizerMixin",
    "tfdp.sampling.Batch",
    "tfdp.sampling.DeclaredDataset",
    "tfdp.sampling.Scheme",
    "tfdp.sampling.Views",
    "tfdp.sampling.batch_length",
    "tfdp.sampling.choose_physical_batch_size",
    "tfdp.sampling.poisson_indices",
    "tfdp.sampling.split_arrays",
    "tfdp.sampling.sum_over_physical_batches",
    "tfdp.sampling.training_data",
    "tfdp.sampling.with_class_weight",
}


def public_callables(module: types.ModuleType = tfdp) -> dict[str, Callable]:
    """What users can call, by dotted name: names of ``__all__``, and methods of classes there."""
    found = {}
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    ]
    for name in names:
        value = getattr(module, name)
        path = f"{module.__name__}.{name}"
        if isinstance(value, types.ModuleType):
            if hasattr(value, "__all__") or value.__name__.count(".") == 1:
                found.update(public_callables(value))
        elif callable(value):
            found[path] = value
            if path not in MADE_BY_THE_PACKAGE:
                found.update({f"{path}.{m}": getattr(value, m) for m in own_methods(value)})
    return found


def own_methods(value: Any) -> list[str]:
    """Public methods with arguments that a class does not take over from Keras or Python."""
    if not inspect.isclass(value):
        return []
    foreign = [base for base in value.__mro__[1:] if not base.__module__.startswith("tfdp")]
    return [
        name
        for name, method in vars(value).items()
        if not name.startswith("_")
        and isinstance(method, types.FunctionType | classmethod)
        and not any(hasattr(base, name) for base in foreign)
        and set(inspect.signature(getattr(value, name)).parameters) - {"self"}
    ]


def test_the_table_has_every_public_callable():
    public = public_callables()
    assert {*public} - {*CASES} - MADE_BY_THE_PACKAGE == set()
    assert MADE_BY_THE_PACKAGE - {*public} == set()
    for name in CASES:
        assert name in public or name.rpartition(".")[0] in public


@pytest.mark.parametrize("name", CASES)
def test_the_row_has_every_argument(name):
    case = CASES[name]
    assert {*inspect.signature(case.function()).parameters} == {*case.bad, *case.free}


@pytest.mark.parametrize("name", CASES)
def test_the_good_call_works(name):
    CASES[name].function()(**CASES[name].good)


ARGUMENTS = [(name, argument) for name, case in CASES.items() for argument in case.bad]


@pytest.mark.parametrize("name, argument", ARGUMENTS)
def test_bad_values_are_refused_by_the_name_of_the_argument(name, argument):
    case = CASES[name]
    for value in case.bad[argument]:
        try:
            case.function()(**{**case.good, argument: value})
        except (TypeError, ValueError) as error:
            assert re.search(rf"\b{argument}\b", str(error)), f"{value!r}: {error}"
        else:
            pytest.fail(f"Nothing was said about {argument}={value!r}")
