"""jax-privacy 2.0.0: its gradient transformation, and its Keras API on Keras 3 with JAX."""

import math
import os
from collections.abc import Callable

os.environ["KERAS_BACKEND"] = "jax"

import cases
import jax
import jax.numpy as jnp
import jax_privacy
import keras
from frameworks import keras_models
from jax_privacy import keras_api

PACKAGES = ("jax", "jax-privacy", "keras")
METHODS = ("clipped_grad", "Keras API")
MICROBATCH_SIZE = 16

_LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def _model(case: cases.Case) -> keras.Model:
    model = keras_models.build(keras, case)
    if case.lora_rank:
        keras_models.enable_lora(model, case.lora_rank)
    return model


def num_parameters(case: cases.Case) -> int:
    """Number of trainable parameters of the model of `case`."""
    return sum(math.prod(variable.shape) for variable in _model(case).trainable_variables)


def _microbatch_size(case: cases.Case) -> int | None:
    """What ran fastest here: XLA's convolutions are slow inside the loop over microbatches."""
    return MICROBATCH_SIZE if case.architecture in ("mlp", "transformer") else None


def _jitted_step(
    case: cases.Case, gradient: Callable[[Callable], Callable]
) -> Callable[[], object]:
    """A compiled SGD step; `gradient` makes (weights, x, y, key) -> gradients of a loss."""
    model = _model(case)
    frozen = [variable.value for variable in model.non_trainable_variables]

    def loss(weights: list[jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
        logits, _ = model.stateless_call(weights, frozen, x, training=True)
        return _LOSS(y, logits)

    compute = gradient(loss)

    @jax.jit
    def step(weights, x, y, key):
        key, noise_key = jax.random.split(key)
        grads = compute(weights, x, y, noise_key)
        updated = [w - cases.LEARNING_RATE * g for w, g in zip(weights, grads, strict=True)]
        return updated, key

    x, y = map(jnp.asarray, case.batch())
    state = [variable.value for variable in model.trainable_variables], jax.random.key(0)

    def run() -> None:
        nonlocal state
        state = jax.block_until_ready(step(state[0], x, y, state[1]))

    return run


def _compiled_keras_model(model: keras.Model, case: cases.Case) -> Callable[[], object]:
    model.compile(optimizer=keras.optimizers.SGD(cases.LEARNING_RATE), loss=_LOSS)
    x, y = case.batch()
    return lambda: jax.block_until_ready(model.train_on_batch(x, y))


def ordinary_step(case: cases.Case, method: str) -> Callable[[], object]:
    """One ordinary step a call."""
    if method == "Keras API":
        return _compiled_keras_model(_model(case), case)
    return _jitted_step(case, lambda loss: lambda weights, x, y, key: jax.grad(loss)(weights, x, y))


def private_step(case: cases.Case, method: str) -> Callable[[], object]:
    """One private step a call."""
    if method == "Keras API":
        return _keras_api_step(case)

    def gradient(loss: Callable) -> Callable:
        clipped = jax_privacy.clipped_grad(
            loss,
            l2_clip_norm=cases.L2_NORM_CLIP,
            normalize_by=case.batch_size,
            batch_argnums=(1, 2),
            microbatch_size=_microbatch_size(case),
        )
        stddev = cases.NOISE_MULTIPLIER * clipped.l2_norm_bound
        privatizer = jax_privacy.noise_addition.gaussian_privatizer(stddev=stddev)

        def compute(weights, x, y, key):
            noised, _ = privatizer.update(clipped(weights, x, y), (key, ()))
            return noised

        return compute

    return _jitted_step(case, gradient)


def _keras_api_step(case: cases.Case) -> Callable[[], object]:
    config = keras_api.DPKerasConfig(
        epsilon=1_000.0,
        delta=1e-5,
        clipping_norm=cases.L2_NORM_CLIP,
        batch_size=case.batch_size,
        gradient_accumulation_steps=1,
        train_steps=1_000_000,
        train_size=1_000_000,
        noise_multiplier=cases.NOISE_MULTIPLIER,
        microbatch_size=_microbatch_size(case),
    )
    return _compiled_keras_model(keras_api.make_private(_model(case), config), case)
