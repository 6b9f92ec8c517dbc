"""Augmentation multiplicity: views that differ, and a private step on their mean."""

import keras
import numpy as np
import one_example_at_a_time as reference
import pytest
import tensorflow as tf

import tfdp
from tfdp import sampling

RNG = np.random.default_rng(0)
X = RNG.random((12, 6, 6, 2)).astype("float32")
Y = RNG.integers(0, 3, 12)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def cnn():
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(4, 3, activation="tanh"),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )


def by_place(x):
    """Changes rows by their place among the views, so that a test knows them."""
    return x * tf.reshape(1 + tf.cast(tf.range(tf.shape(x)[0]) % 3, x.dtype), [-1, 1, 1, 1])


def private_model(model, noise_multiplier=0.0, jit_compile=False, **options):
    private = tfdp.make_private(
        model, **{"expected_batch_size": 12, "augmentation_multiplicity": 3, **options}
    )
    private.compile(
        tfdp.optimizers.VectorizedDPKerasSGDOptimizer(0.5, noise_multiplier, learning_rate=1.0),
        loss=LOSS,
        metrics=["accuracy"],
        jit_compile=jit_compile,
    )
    return private


@pytest.mark.parametrize(
    ("clipping", "physical_batch_size", "jit_compile"),
    [("auto", 5, False), ("auto", None, False), ("auto", 5, True), ("vectorized", 5, False)],
)
def test_a_step_clips_the_mean_over_the_views_of_an_example(
    clipping, physical_batch_size, jit_compile
):
    model = cnn()
    views = sampling.Views(by_place, 3)
    rows = reference.gradients(model, LOSS, *(t.numpy() for t in views(X, Y, None)[:2]))
    per_example = [row.reshape(12, 3, *row.shape[1:]).mean(1) for row in rows]
    before = [v.numpy() for v in model.trainable_variables]
    private = private_model(
        model,
        augmentation=by_place,
        clipping=clipping,
        physical_batch_size=physical_batch_size,
        jit_compile=jit_compile,
    )
    private.train_on_batch(X, Y)
    steps = [12 * (b - v.numpy()) for b, v in zip(before, model.trainable_variables, strict=True)]
    reference.assert_close(steps, reference.clipped_sum(per_example, 0.5), 1e-4)


def test_a_step_of_several_views_costs_the_privacy_of_one():
    epsilons = []
    for count in (1, 3):
        private = private_model(
            cnn(), 1.0, augmentation=tfdp.layers.RandomShift(1), augmentation_multiplicity=count
        )
        private.fit(X, Y, batch_size=4, epochs=2, verbose=0)
        epsilons.append(private.ledger.epsilon(1e-3))
    assert epsilons[0] == epsilons[1]


def test_an_augmented_private_model_is_saved_and_loaded(tmp_path):
    private = private_model(cnn(), 1.0, augmentation=tfdp.layers.RandomShift(1))
    private.fit(X, Y, batch_size=4, verbose=0)
    private.save(tmp_path / "private.keras")
    loaded = keras.saving.load_model(tmp_path / "private.keras")
    config = loaded.get_config()
    assert config["augmentation_multiplicity"] == 3
    assert config["augmentation"]["config"]["padding"] == 1
    loaded.fit(X, Y, batch_size=4, verbose=0)


def test_views_of_nested_inputs_and_weights():
    views = sampling.Views(lambda x: x, 2)
    x, y, weight = views({"a": tf.range(3), "b": tf.zeros([3, 2])}, tf.range(3), None)
    assert x["a"].numpy().tolist() == y.numpy().tolist() == [0, 0, 1, 1, 2, 2]
    assert x["b"].shape == (6, 2) and weight is None


def test_shifts_are_windows_of_the_reflected_image_and_differ_between_rows():
    image = np.arange(25.0, dtype="float32").reshape(5, 5, 1)
    layer = tfdp.layers.RandomShift(2, seed=1)
    shifted = tf.function(lambda x: layer(x, training=True))(np.stack([image] * 200)).numpy()
    padded = np.pad(image, [(2, 2), (2, 2), (0, 0)], "reflect")
    windows = {padded[i : i + 5, j : j + 5].tobytes(): (i, j) for i in range(5) for j in range(5)}
    seen = [windows[row.tobytes()] for row in shifted]
    assert len(set(seen)) == 25
    np.testing.assert_array_equal(layer(image[None]), image[None])
    assert tfdp.layers.RandomShift.from_config(layer.get_config()).padding == 2


class CutMix(keras.layers.Layer):
    """Named as the layer of Keras and keras-cv."""

    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"augmentation": 3}, TypeError, "augmentation=3"),
        ({"augmentation_multiplicity": 0}, ValueError, "augmentation_multiplicity=0"),
        ({"augmentation_multiplicity": 2}, ValueError, "augmentation=None"),
        ({"augmentation": CutMix(name="mixing")}, ValueError, "augmentation='mixing' .CutMix"),
        (
            {"augmentation": keras.Sequential([keras.layers.Rescaling(2.0), CutMix()])},
            ValueError,
            "CutMix",
        ),
    ],
)
def test_what_cannot_be_a_view_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        tfdp.make_private(cnn(), **options)
