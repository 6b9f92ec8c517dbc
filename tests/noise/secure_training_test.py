"""Training with `secure_noise=True`: the law of its updates, resuming, and where it is refused."""

import unittest.mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

import tfdp
from tfdp import _replicas

X, Y = np.zeros((40, 50), "float32"), np.zeros((40, 40), "float32")
CLIP, SIGMA, BATCH = 0.5, 1.3, 8


def private_model(secure=True, model=None, rate=1.0, options=None, **compiled):
    if model is None:  # With inputs of zero its 2000 weights get noise alone.
        model = keras.Sequential([keras.Input((50,)), keras.layers.Dense(40, use_bias=False)])
    private = tfdp.make_private(model)
    private.compile(
        tfdp.optimizers.VectorizedDPKerasSGDOptimizer(
            CLIP, SIGMA, learning_rate=rate, secure_noise=secure, **(options or {})
        ),
        loss="mse",
        **compiled,
    )
    private.optimizer.build(private.trainable_variables)
    return private


def noise_of(private, steps=1):
    """What so many steps add to the weights, over its standard deviation."""
    before = private.get_weights()[0]
    private.fit(X, Y, batch_size=BATCH, steps_per_epoch=steps, verbose=0)
    moved = (before - private.get_weights()[0]).ravel().astype("float64")
    return moved * BATCH / (CLIP * SIGMA * steps**0.5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"run_eagerly": True},
        {"jit_compile": True},  # XLA compiles the work on a physical batch, not the noise.
        {"steps_per_execution": 3},
        {"options": {"num_microbatches": 4}},
    ],
)
def test_updates_have_the_law_of_the_fast_source(options):
    of_groups = 2.0 if "options" in options else 1.0  # Sums of the means of 4 groups, not of 8.
    draws = noise_of(private_model(**options), steps=3) / of_groups
    assert stats.kstest(draws, "norm").pvalue > 1e-4
    for wrong in (2 / 3, 3 / 2):
        assert stats.kstest(draws, "norm", args=(0, wrong)).pvalue < 1e-6
    fast = noise_of(private_model(secure=False, **options), steps=3) / of_groups
    assert stats.ks_2samp(draws, fast).pvalue > 1e-4


def test_a_strategy_of_one_device_trains():
    with tfdp.distribution.strategy("mirrored", devices=["CPU:0"]).scope():
        private = private_model()
    assert stats.kstest(noise_of(private), "norm").pvalue > 1e-4


def test_each_update_is_a_multiple_of_the_grid():
    private = private_model()
    private.model.layers[0].kernel.assign(tf.zeros([50, 40]))
    noise_of(private)
    (weights,) = private.get_weights()
    step = tfdp.noise.DiscreteGaussianNoise(CLIP).grid(CLIP * SIGMA) / BATCH
    np.testing.assert_array_equal(weights / step, np.rint(weights / step))
    assert np.unique(weights).size > 1990


def test_a_model_learns():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 5)).astype("float32")
    y = x @ rng.normal(size=(5, 1)).astype("float32")
    dense = keras.layers.Dense(1, kernel_initializer="zeros")
    private = private_model(model=keras.Sequential([keras.Input((5,)), dense]), rate=0.3)
    private.fit(x, y, batch_size=100, epochs=20, verbose=0)
    assert np.mean((private.predict(x, verbose=0) - y) ** 2) < 0.1 * np.mean(y**2)


def test_what_is_charged_is_the_same_and_the_statement_names_the_source():
    secure, fast = private_model(), private_model(secure=False)
    noise_of(secure), noise_of(fast)
    assert secure.ledger.epsilon(1e-3) == fast.ledger.epsilon(1e-3)
    line = "secure source: a discrete Gaussian on a grid"
    assert line in " ".join(str(secure.privacy_statement(1e-3)).split())
    assert line not in " ".join(str(fast.privacy_statement(1e-3)).split())


def test_a_run_that_resumes_repeats_no_noise(tmp_path):
    path = tmp_path / "private.keras"
    private = private_model()
    noise_of(private)
    private.save(path)
    draws = [noise_of(private), noise_of(private)]
    for _ in range(2):  # Two crashes after the same checkpoint.
        resumed = keras.saving.load_model(path)
        assert resumed.optimizer.secure_noise
        assert isinstance(resumed._noise, tfdp.noise.DiscreteGaussianNoise)
        draws += [noise_of(resumed), noise_of(resumed)]
    for i, left in enumerate(draws):
        assert stats.kstest(left, "norm").pvalue > 1e-4
        for right in draws[:i]:
            assert abs(np.corrcoef(left, right)[0, 1]) < 0.15


@pytest.mark.parametrize("kind", [tf.distribute.MirroredStrategy, tf.distribute.TPUStrategy])
def test_several_replicas_and_tpus_are_refused(kind):
    replicas = 2 if kind is tf.distribute.MirroredStrategy else 1
    strategy = unittest.mock.Mock(spec=kind, num_replicas_in_sync=replicas)
    with pytest.raises(ValueError, match=f"secure_noise=True with .*{replicas} replicas"):
        _replicas.check_optimizer(private_model().optimizer, strategy)


def test_a_function_that_xla_compiles_as_a_whole_says_that_it_cannot_hold_the_noise():
    noise = tfdp.noise.DiscreteGaussianNoise(1.0)

    @tf.function(jit_compile=True)
    def step(x):
        return noise.add([x], 1.0)

    with pytest.raises((tf.errors.InvalidArgumentError, tf.errors.UnimplementedError), match="Py"):
        step(tf.zeros([3]))
