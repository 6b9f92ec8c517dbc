"""Training a denoiser: the law of its draws, its loss, and private steps."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from one_example_at_a_time import assert_close, clipped_sum, norms
from scipy import stats

import tfdp
from tfdp.synthesis import Denoiser, DenoisingLoss, NoiseSchedule, attention_unet

L = keras.layers
SGD = tfdp.optimizers.VectorizedDPKerasSGDOptimizer


def network():
    """A small network of the inputs of a U-Net, the same each time."""
    keras.utils.set_random_seed(3)
    images = keras.Input((8, 8, 1))
    time, labels = keras.Input(()), keras.Input((), dtype="int32")
    condition = L.Rescaling(0.001)(L.Reshape((1,))(time))
    condition = L.Concatenate()([condition, L.Embedding(4, 3)(labels)])
    x = L.Conv2D(6, 3, padding="same")(images)
    x = L.Add()([x, L.Reshape((1, 1, 6))(L.Dense(6)(condition))])
    x = L.Conv2D(1, 3, padding="same")(L.Activation("silu")(x))
    return keras.Model([images, time, labels], x)


def unet():
    return attention_unet((8, 8, 1), 3, widths=(8,), attention=(False,), heads=2)


def denoiser(**kwargs):
    return Denoiser(network(), 3, **{"seed": 5, **kwargs})


def data(count=8):
    rng = np.random.default_rng(1)
    images = rng.uniform(-1, 1, (count, 8, 8, 1)).astype("float32")
    return {"images": images, "labels": rng.integers(0, 3, count).astype("int32")}


def weights(model):
    return [np.array(v) for v in model.trainable_variables]


@pytest.mark.parametrize("prediction", ["velocity", "noise"])
def test_images_can_be_worked_out_from_what_is_drawn(prediction):
    schedule = NoiseSchedule(100, "linear", prediction)
    images, labels = data(50).values()
    noisy, time, _, target = map(np.asarray, denoiser(schedule=schedule).draw(images, labels))
    signal = schedule.signal[time][:, None, None, None]
    noise = schedule.noise[time][:, None, None, None]
    if prediction == "velocity":
        np.testing.assert_allclose(signal * noisy - noise * target, images, atol=1e-5)
    else:
        np.testing.assert_allclose(noisy, signal * images + noise * target, atol=1e-5)


def test_the_law_of_the_draws():
    model = denoiser(schedule=NoiseSchedule(50, prediction="noise"), label_dropout=0.3)
    images, labels = np.zeros((4000, 4, 4, 1), "float32"), np.arange(4000, dtype="int32") % 3
    _, time, kept, noise = map(np.asarray, model.draw(images, labels, training=True))
    assert stats.chisquare(np.bincount(time, minlength=50)).pvalue > 1e-4
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-4
    dropped = kept == 3
    assert abs(dropped.mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 4000)
    np.testing.assert_array_equal(kept[~dropped], labels[~dropped])
    assert abs(np.corrcoef(time, dropped)[0, 1]) < 0.1
    _, _, kept, _ = model.draw(images, labels)
    np.testing.assert_array_equal(kept, labels)


def test_draws_differ_between_rows_and_calls_in_a_compiled_step():
    shared, schedule = network(), NoiseSchedule(prediction="noise")
    model, other = (Denoiser(shared, 3, schedule) for _ in range(2))
    images, labels = np.zeros((64, 4, 4, 1), "float32"), np.zeros(64, "int32")
    draw = tf.function(lambda: model.draw(images, labels, training=True)[3], autograph=False)
    noise = np.concatenate([draw(), draw()]).reshape(128, 16)
    assert len(np.unique(noise[:, 0])) == 128
    assert not np.intersect1d(noise, other.draw(images, labels)[3]).size


def test_draws_differ_between_physical_batches():
    model = denoiser(schedule=NoiseSchedule(prediction="noise"))
    images, labels = tf.zeros((10, 4, 4, 1)), tf.zeros(10, tf.int32)

    def physical_step(part):
        rows, images, labels = part
        noise = model.draw(images, labels, training=True)[3]
        return [tf.scatter_nd(rows[:, None], noise, (10, 4, 4, 1))]

    @tf.function(autograph=False)
    def logical_batch():
        return tfdp.sampling.sum_over_physical_batches(
            (tf.range(10), images, labels), 3, physical_step, [tf.zeros((10, 4, 4, 1))]
        )[0]

    noise = np.concatenate([logical_batch(), logical_batch()])
    assert len(np.unique(noise)) == noise.size


def test_the_loss_is_the_mean_square_of_the_residual_and_needs_no_targets():
    residual = np.random.default_rng(0).standard_normal((5, 4, 4, 2)).astype("float32")
    expected = (residual**2).mean((1, 2, 3))
    np.testing.assert_allclose(DenoisingLoss(reduction=None)(None, residual), expected, rtol=1e-6)
    assert float(DenoisingLoss()(None, residual)) == pytest.approx(expected.mean(), rel=1e-6)
    weight = np.array([1.0, 0, 0, 2, 0], "float32")
    weighted = DenoisingLoss(reduction="sum")(None, residual, weight)
    assert float(weighted) == pytest.approx((weight * expected).sum(), rel=1e-6)


def test_what_it_returns_is_prediction_minus_target():
    model, twin = denoiser(), denoiser()
    residual = model(data(), training=True)
    noisy, time, labels, target = twin.draw(*data().values(), training=True)
    expected = twin.unet([noisy, time, labels]) - target
    np.testing.assert_allclose(residual, expected, rtol=1e-4, atol=1e-5)
    images, labels = data().values()
    np.testing.assert_array_equal(denoiser()((images, labels), training=True), residual)


def test_ordinary_training_learns():
    model = denoiser()
    model.compile(keras.optimizers.Adam(3e-3), loss=DenoisingLoss())
    example = {"images": np.full((64, 8, 8, 1), 0.5, "float32"), "labels": np.zeros(64, "int32")}
    before = model.evaluate(example, verbose=0)
    model.fit(example, batch_size=16, epochs=8, verbose=0)
    assert model.evaluate(example, verbose=0) < 0.7 * before


def test_a_private_step_without_noise_and_bound_is_an_ordinary_step():
    plain, model = denoiser(), denoiser()
    plain.compile(keras.optimizers.SGD(0.1), loss=DenoisingLoss(), jit_compile=False)
    plain.train_on_batch(data())
    private = tfdp.make_private(model, expected_batch_size=8)
    private.compile(SGD(1e6, 0.0, learning_rate=0.1), loss=DenoisingLoss())
    private.train_on_batch(data())
    start = weights(denoiser())
    moved = [after - before for after, before in zip(weights(plain), start, strict=True)]
    assert max(np.abs(m).max() for m in moved) > 1e-3
    assert_close(
        [after - before for after, before in zip(weights(private), start, strict=True)], moved, 1e-4
    )


@pytest.mark.parametrize("draws", [1, 3])
def test_the_gradient_of_the_mean_over_draws_is_what_is_clipped(draws):
    model, twin = denoiser(), denoiser()
    images, labels = data(4).values()
    rows = [np.repeat(array, draws, axis=0) for array in (images, labels)]
    noisy, time, kept, target = map(np.asarray, twin.draw(*rows, training=True))
    assert len(np.unique(target)) == target.size
    per_example = []
    for i in range(4):
        of_example = slice(i * draws, (i + 1) * draws)
        with tf.GradientTape() as tape:
            given = [noisy[of_example], time[of_example], kept[of_example]]
            residual = twin.unet(given) - target[of_example]
            loss = tf.reduce_mean(tf.square(residual))
        gradients = tape.gradient(loss, [v.value for v in twin.trainable_variables])
        per_example.append([np.asarray(tf.convert_to_tensor(g), "float64") for g in gradients])
    per_example = [np.stack(gradients) for gradients in zip(*per_example, strict=True)]
    clip = float(np.median(norms(per_example)))  # Two of the four are cut.
    start = weights(model)
    private = tfdp.make_private(
        model, expected_batch_size=4, **tfdp.synthesis.noise_multiplicity(draws)
    )
    private.compile(SGD(clip, 0.0, learning_rate=4.0), loss=DenoisingLoss())
    private.train_on_batch({"images": images, "labels": labels})
    moved = [before - after for after, before in zip(weights(model), start, strict=True)]
    assert_close(moved, clipped_sum(per_example, clip), 1e-4)


def test_fit_trains_privately_and_charges_each_step():
    private = tfdp.make_private(Denoiser(unet(), 3))
    private.compile(SGD(1.0, 1.0, learning_rate=0.1), loss=DenoisingLoss())
    start = weights(private)
    history = private.fit(data(20), batch_size=5, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert any((a != b).any() for a, b in zip(weights(private), start, strict=True))
    expected = tfdp.accounting.epsilon(1.0, 5 / 20, 4, 1e-3)
    assert private.ledger.epsilon(1e-3) == pytest.approx(expected)
    assert "run again" not in private.clipping_summary()


def test_lora_of_the_attention_trains_privately_and_alone():
    model = Denoiser(unet(), 3)
    for weight in model.trainable_variables:  # Kernels of zeros stop gradients.
        weight.assign_add(0.1 * keras.random.normal(weight.shape, seed=1))
    for layer in model.unet._flatten_layers(include_self=False):
        if isinstance(layer, keras.layers.EinsumDense):
            layer.enable_lora(2)
            layer.bias.trainable = False
        elif not isinstance(layer, keras.layers.MultiHeadAttention):
            layer.trainable = False
    names = [v.name for v in model.trainable_variables]
    assert names == ["lora_kernel_a", "lora_kernel_b"] * 8
    before = {v.path: np.array(v) for v in model.unet.variables}
    private = tfdp.make_private(model, expected_batch_size=8)
    private.compile(SGD(1.0, 0.5, learning_rate=0.1), loss=DenoisingLoss())
    private.train_on_batch(data())
    for variable in model.unet.variables:
        changed = (np.array(variable) != before[variable.path]).any()
        assert changed == ("lora_kernel" in variable.name), variable.path


@pytest.mark.parametrize("private", [False, True])
def test_the_average_of_weights_is_that_of_keras(private):
    model = denoiser()
    if private:
        trained = tfdp.make_private(model, expected_batch_size=8)
        optimizer = SGD(1.0, 1.0, learning_rate=0.1, use_ema=True, ema_momentum=0.6)
    else:
        trained, optimizer = model, keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.6)
    trained.compile(optimizer, loss=DenoisingLoss(), jit_compile=False)
    average = None
    for _ in range(3):
        trained.train_on_batch(data())
        now = weights(model)
        if average is None:
            average = now
        average = [0.6 * a + 0.4 * b for a, b in zip(average, now, strict=True)]
    optimizer.finalize_variable_values(model.trainable_variables)
    assert_close(weights(model), average)


def test_it_is_saved_and_loaded(tmp_path):
    model = denoiser(schedule=NoiseSchedule(30, "linear", "noise"), label_dropout=0.2)
    model.save(tmp_path / "denoiser.keras")
    loaded = keras.saving.load_model(tmp_path / "denoiser.keras")
    assert loaded.get_config()["schedule"] == model.get_config()["schedule"]
    assert (loaded.label_dropout, loaded.num_classes, loaded.seed) == (0.2, 3, 5)
    np.testing.assert_allclose(loaded(data()), model(data()), rtol=1e-4, atol=1e-5)


def test_a_network_of_other_inputs_is_refused():
    with pytest.raises(ValueError, match="three inputs.*with 1"):
        Denoiser(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]), 3)
