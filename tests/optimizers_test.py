"""The vectorized DP-Keras optimizers."""

import math

import keras
import numpy as np
import pytest

import tfdp

CLASSES = [
    tfdp.optimizers.VectorizedDPKerasSGDOptimizer,
    tfdp.optimizers.VectorizedDPKerasAdamOptimizer,
    tfdp.optimizers.VectorizedDPKerasAdagradOptimizer,
    tfdp.optimizers.make_vectorized_keras_optimizer_class(keras.optimizers.RMSprop),
]


@pytest.mark.parametrize("cls", CLASSES)
def test_config_round_trip(cls):
    optimizer = cls(0.3, 1.7, 8, learning_rate=0.25, secure_noise=True)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert type(copy) is cls
    assert copy.get_config() == optimizer.get_config()
    assert (copy.l2_norm_clip, copy.noise_multiplier, copy.num_microbatches) == (0.3, 1.7, 8)
    assert copy.secure_noise is True
    config = cls(0.3, 1.7).get_config()
    del config["secure_noise"]  # Files of before there was a choice do not have it.
    assert cls.from_config(config).secure_noise is False


def test_names_and_order_are_those_of_tensorflow_privacy():
    optimizer = tfdp.optimizers.VectorizedDPKerasSGDOptimizer(1.0, 1.1, None, 0.15)
    assert type(optimizer).__name__ == "VectorizedDPKerasSGDOptimizer"
    assert float(optimizer.learning_rate) == pytest.approx(0.15)
    assert tfdp.optimizers.make_vectorized_keras_optimizer_class(type(optimizer)) is type(optimizer)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"l2_norm_clip": 0.0}, "l2_norm_clip=0"),
        ({"l2_norm_clip": -1.0}, "l2_norm_clip=-1"),
        ({"l2_norm_clip": math.nan}, "l2_norm_clip=nan"),
        ({"l2_norm_clip": "1"}, "l2_norm_clip='1'"),
        ({"l2_norm_clip": math.inf}, "noise_multiplier=1"),
        ({"noise_multiplier": -0.1}, "noise_multiplier=-0.1"),
        ({"noise_multiplier": math.inf}, "noise_multiplier=inf"),
        ({"num_microbatches": 0}, "num_microbatches=0"),
        ({"num_microbatches": 2.0}, "num_microbatches=2.0"),
        ({"noise_seed": 0.5}, "noise_seed=0.5"),
        ({"secure_noise": 1}, "secure_noise=1"),
        ({"secure_noise": True, "noise_seed": 3}, "noise_seed=3"),
        ({"secure_noise": True, "noise_multiplier": 0.0}, "noise_multiplier=0"),
        ({"ema_warmup": 1}, "ema_warmup=1"),
        ({"ema_warmup": True}, "use_ema=True"),
        ({"loss_scale_factor": 2.0}, "loss_scale_factor=2.0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        tfdp.optimizers.VectorizedDPKerasSGDOptimizer(
            **{"l2_norm_clip": 1.0, "noise_multiplier": 1.0, **arguments}
        )


def test_only_optimizer_classes_are_made_private():
    with pytest.raises(TypeError, match="cls="):
        tfdp.optimizers.make_vectorized_keras_optimizer_class(keras.layers.Dense)


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_a_plain_model_is_refused_before_any_update(run_eagerly):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile(CLASSES[0](1.0, 1.0), loss="mse", run_eagerly=run_eagerly)
    before = model.get_weights()
    with pytest.raises(RuntimeError, match="make_private"):
        model.fit(np.ones((8, 4)), np.ones((8, 2)), verbose=0)
    with pytest.raises(RuntimeError, match="make_private"):
        model.optimizer.apply_gradients([(np.ones(v.shape), v) for v in model.trainable_variables])
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_mechanism_of_an_optimizer_is_fixed():
    optimizer = CLASSES[0](1.0, 1.0)
    with pytest.raises(AttributeError):
        optimizer.noise_multiplier = 0.0
    assert optimizer.noise_stddev == 1.0
    assert CLASSES[0](math.inf, 0.0).noise_stddev == 0.0


def test_the_average_of_the_weights_warms_up():
    x, y = np.ones((20, 3), "float32"), np.ones((20, 2), "float32")
    private = tfdp.make_private(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]))
    optimizer = tfdp.optimizers.VectorizedDPKerasSGDOptimizer(
        1.0, 0.5, learning_rate=0.5, use_ema=True, ema_momentum=0.6, ema_warmup=True
    )
    private.compile(optimizer, loss="mse")
    weights = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            weights.append(private.model.layers[0].kernel.numpy())

    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    private.fit(x, y, batch_size=5, epochs=4, callbacks=[Watch(), swap], verbose=0)
    average = weights[0]
    for step, after in enumerate(weights[1:], 1):
        decay = min(0.6, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * after
    assert min(0.6, 2 / 11) < 0.2 and len(weights) == 16
    np.testing.assert_allclose(private.model.layers[0].kernel, average, rtol=1e-5)
    config = optimizer.get_config()
    assert config["ema_warmup"] is True and config["ema_momentum"] == 0.6
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert copy.get_config() == config
