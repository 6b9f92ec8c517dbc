"""Sampling, from networks of which the right answer is known."""

import keras
import numpy as np
import pytest

from tfdp.synthesis import NoiseSchedule, sample, to_bytes

SHAPE = (4, 4, 1)
IMAGES = np.random.default_rng(0).uniform(-0.3, 0.3, (4, *SHAPE)).astype("float32")


class BestPrediction(keras.layers.Layer):
    """Predicts the best for data of which each class is normal around one image."""

    def __init__(self, schedule, stddev=0.0):
        super().__init__()
        self.schedule, self.stddev = schedule, stddev

    def call(self, noisy, time, labels):
        time = keras.ops.cast(time, "int32")
        signal, noise = (
            keras.ops.reshape(keras.ops.take(rates, time), (-1, 1, 1, 1))
            for rates in (self.schedule.signal, self.schedule.noise)
        )
        mean = keras.ops.take(IMAGES, labels, axis=0)
        gain = signal * self.stddev**2 / (signal**2 * self.stddev**2 + noise**2)
        image = mean + gain * (noisy - signal * mean)
        if self.schedule.prediction == "noise":
            return (noisy - signal * image) / noise
        return (signal * noisy - image) / noise


def network(schedule, stddev=0.0):
    inputs = [keras.Input(SHAPE), keras.Input(()), keras.Input((), dtype="int32")]
    return keras.Model(inputs, BestPrediction(schedule, stddev)(*inputs))


def images_of(labels, **kwargs):
    schedule = kwargs.pop("schedule", NoiseSchedule())
    kwargs = {"schedule": schedule, "num_classes": 3, "verbose": 0, "steps": 5, **kwargs}
    return sample(network(schedule), labels, **kwargs)


@pytest.mark.parametrize("kind", ["cosine", "linear"])
@pytest.mark.parametrize("prediction", ["velocity", "noise"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_each_label_gets_the_image_of_its_class(kind, prediction, eta):
    labels = np.array([2, 0, 1, 1, 3, 0, 2])
    schedule = NoiseSchedule(100, kind, prediction)
    images = images_of(labels, schedule=schedule, guidance=1.0, eta=eta, batch_size=3)
    assert images.dtype == np.uint8
    np.testing.assert_allclose(images.astype(int), to_bytes(IMAGES[labels]), atol=1)


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
def test_guidance_goes_on_from_no_class_beyond_the_class(guidance):
    labels = np.array([0, 1, 2])
    expected = IMAGES[3] + guidance * (IMAGES[labels] - IMAGES[3])
    assert (np.abs(expected) < 1).mean() > 0.9  # The rest is clipped.
    images = images_of(labels, guidance=guidance)
    np.testing.assert_allclose(images.astype(int), to_bytes(expected), atol=1)


@pytest.mark.parametrize("eta, steps", [(0.0, 50), (1.0, 500)])
def test_many_steps_follow_the_law_of_the_data(eta, steps):
    schedule = NoiseSchedule()
    images = sample(
        network(schedule, stddev=0.2),
        np.zeros(500, int),
        num_classes=3,
        guidance=1.0,
        steps=steps,
        eta=eta,
        batch_size=500,
        seed=1,
        verbose=0,
    )
    values = images / 127.5 - 1 - IMAGES[0]
    # Standard errors are 0.002 and 0.0016; with noise the steps are exact in the limit of many.
    assert abs(values.mean()) < 0.01
    assert values.std() == pytest.approx(0.2, abs=0.012)


def test_equal_seeds_give_equal_images_and_none_gives_others():
    schedule = NoiseSchedule()
    model = network(schedule, stddev=0.2)

    def draw(seed, **kwargs):
        return sample(model, [0] * 4, num_classes=3, steps=3, seed=seed, verbose=0, **kwargs)

    np.testing.assert_array_equal(draw(1), draw(1))
    np.testing.assert_array_equal(draw(1, eta=0.5), draw(1, eta=0.5))
    for other in (draw(2), draw(1, batch_size=2), draw(1, eta=0.5)):
        assert (other != draw(1)).any()
    assert (draw(None) != draw(None)).any()
    one = draw(1)
    assert len(np.unique(one.reshape(4, -1), axis=0)) == 4


def test_a_progress_bar_is_shown_if_asked_for(capsys):
    images_of([0], verbose=0)
    assert capsys.readouterr().out == ""
    images_of([0, 1], batch_size=1, verbose=1)
    assert "10/10" in capsys.readouterr().out
