"""tfdp, in the interpreter that runs the benchmark."""

import math
from collections.abc import Callable

import cases
import keras
import tensorflow as tf
from frameworks import keras_models

import tfdp

PACKAGES = ("tensorflow", "keras")
METHODS = ("tfdp",)

_LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _model(case: cases.Case) -> keras.Model:
    model = keras_models.build(keras, case)
    if case.lora_rank:
        keras_models.enable_lora(model, case.lora_rank)
    return model


def private_model(case: cases.Case) -> keras.Model:
    private = tfdp.make_private(_model(case), expected_batch_size=case.batch_size)
    optimizer = tfdp.optimizers.VectorizedDPKerasSGDOptimizer(
        l2_norm_clip=cases.L2_NORM_CLIP,
        noise_multiplier=cases.NOISE_MULTIPLIER,
        learning_rate=cases.LEARNING_RATE,
    )
    private.compile(optimizer=optimizer, loss=_LOSS)
    return private


def _ordinary_model(case: cases.Case) -> keras.Model:
    model = _model(case)
    model.compile(optimizer=keras.optimizers.SGD(cases.LEARNING_RATE), loss=_LOSS)
    return model


def num_parameters(case: cases.Case) -> int:
    """Number of trainable parameters of the model of `case`."""
    return sum(math.prod(variable.shape) for variable in _model(case).trainable_variables)


def _on_one_batch(model: keras.Model, case: cases.Case) -> Callable[[], object]:
    x, y = map(tf.constant, case.batch())
    return lambda: model.train_on_batch(x, y)


def ordinary_step(case: cases.Case, method: str) -> Callable[[], object]:
    """One ordinary step a call."""
    del method  # there is one
    return _on_one_batch(_ordinary_model(case), case)


def private_step(case: cases.Case, method: str) -> Callable[[], object]:
    """One private step a call."""
    del method  # there is one
    return _on_one_batch(private_model(case), case)


def ordinary_epoch(case: cases.Case, method: str) -> Callable[[], object]:
    """One `fit` of one epoch a call, shuffled, without tf.data's autotuning, as in tfdp."""
    del method  # there is one
    model = _ordinary_model(case)
    x, y = case.examples(case.batch_size * case.fit_steps)
    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x))
    dataset = dataset.batch(case.batch_size).with_options(options)
    return lambda: model.fit(dataset, epochs=1, verbose=0)


def private_epoch(case: cases.Case, method: str) -> Callable[[], object]:
    """One `fit` of one epoch a call, Poisson sampled."""
    del method  # there is one
    private = private_model(case)
    x, y = case.examples(case.batch_size * case.fit_steps)
    return lambda: private.fit(x, y, batch_size=case.batch_size, epochs=1, verbose=0)
