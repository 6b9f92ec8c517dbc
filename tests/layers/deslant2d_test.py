"""Tests of images brought upright: against one pixel at a time, and what must not matter."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdp.layers import Deslant2D

RNG = np.random.default_rng(0)


def moments(image):
    """The covariance of row and column, the variance of rows, and the mean row, in float64."""
    mass = image.astype("float64").sum(-1)
    mass = mass / mass.sum()
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    row, column = (mass * rows).sum(), (mass * columns).sum()
    return (
        (mass * (rows - row) * (columns - column)).sum(),
        (mass * (rows - row) ** 2).sum(),
        row,
    )


def one_pixel_at_a_time(image, max_slant):
    """The upright image, in float64."""
    covariance, variance, row = moments(image)
    slant = np.clip(covariance / (variance + 1e-3), -max_slant, max_slant)
    height, width, _ = image.shape
    upright = np.zeros(image.shape)
    for r, c in np.ndindex(height, width):
        read = c + slant * (r - row)
        left = int(np.floor(read))
        for column, share in ((left, left + 1 - read), (left + 1, read - left)):
            if 0 <= column < width:
                upright[r, c] += share * image[r, column]
    return upright


@settings(deadline=None, max_examples=30)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3)),
    st.floats(0.1, 20),
    st.integers(0, 1000),
)
def test_images_are_those_of_one_pixel_at_a_time(shape, max_slant, seed):
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(3, *shape)) * (rng.uniform(size=(3, *shape)) < 0.3)
    x[:, 0, 0, 0] += 0.1
    layer = Deslant2D(max_slant)
    found = layer(x.astype("float32")).numpy()
    assert found.shape == layer.compute_output_shape(x.shape)
    wanted = [one_pixel_at_a_time(image, max_slant) for image in x]
    np.testing.assert_allclose(found, wanted, atol=2e-4)


def bar(slant, size=21):
    """A bar 11 pixels high through the middle, which slants by so many columns a row."""
    image = np.zeros((size, size, 1), "float32")
    middle = size // 2
    for row in range(middle - 5, middle + 6):
        column = middle + slant * (row - middle)
        left = int(np.floor(column))
        image[row, left, 0], image[row, left + 1, 0] = left + 1 - column, column - left
    return image


@pytest.mark.parametrize("slant", [-0.9, -0.35, 0.0, 0.2, 0.75])
def test_what_slants_stands_upright_and_loses_no_mass(slant):
    upright = Deslant2D()(bar(slant)[None])[0].numpy()
    covariance, variance, _ = moments(upright)
    assert abs(covariance) < 0.02 * variance
    assert upright.sum() == pytest.approx(bar(slant).sum(), rel=1e-3)
    # Interpolation blurs by a column; the rest of the bar is in the middle.
    assert upright[:, 9:12].sum() == pytest.approx(upright.sum(), rel=1e-3)


def test_more_than_the_largest_slant_is_not_taken_away():
    upright = Deslant2D(max_slant=0.25)(bar(0.75)[None])[0].numpy()
    covariance, variance, _ = moments(upright)
    assert covariance / variance == pytest.approx(0.5, rel=0.02)


def test_brightness_does_not_matter_and_flat_or_empty_images_stay():
    x = RNG.uniform(size=(4, 8, 9, 2)).astype("float32")
    layer = Deslant2D()
    np.testing.assert_allclose(layer(5 * x), 5 * layer(x), atol=1e-4)
    line = np.zeros((1, 8, 9, 1), "float32")
    np.testing.assert_array_equal(layer(line), line)
    line[0, 3, 2:7] = 1
    np.testing.assert_allclose(layer(line), line, atol=1e-5)


def test_no_example_changes_another():
    x = RNG.uniform(size=(4, 9, 9, 1)).astype("float32")
    layer = Deslant2D()
    others = np.concatenate([x[:1], 1 - x[1:]])
    np.testing.assert_allclose(layer(x)[0], layer(others)[0], atol=1e-6)
    assert layer(x[:0]).shape == (0, 9, 9, 1)


def test_it_is_saved_and_works_compiled_and_in_half_precision(tmp_path):
    layer = Deslant2D(0.5)
    model = keras.Sequential([keras.Input((9, 9, 2)), layer, keras.layers.Flatten()])
    x = RNG.uniform(size=(3, 9, 9, 2)).astype("float32")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.layers[0].max_slant == 0.5
    np.testing.assert_array_equal(loaded(x), model(x))
    np.testing.assert_allclose(tf.function(layer, jit_compile=True)(x), layer(x), atol=1e-5)
    half = Deslant2D(0.5, dtype="mixed_float16")(x)
    assert half.dtype == tf.float16
    np.testing.assert_allclose(half, layer(x), atol=2e-3)


def test_gradients_of_inputs_are_finite_where_there_is_no_mass():
    x = tf.zeros((1, 5, 5, 1))
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = tf.reduce_sum(Deslant2D()(x) ** 2)
    assert np.isfinite(tape.gradient(value, x)).all()


@pytest.mark.parametrize("shape", [(8, 8), (None, 8, 8), (None, None, 8, 1)])
def test_what_is_no_image_of_known_shape_is_refused(shape):
    with pytest.raises(ValueError, match="Received: input_shape"):
        Deslant2D().build(shape)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_image_that_is_not_finite_harms_no_other(value):
    x = RNG.uniform(size=(3, 6, 6, 1)).astype("float32")
    layer = Deslant2D()
    wanted = layer(x).numpy()
    x[1, 2, 3] = value
    found = layer(x).numpy()
    np.testing.assert_array_equal(found[[0, 2]], wanted[[0, 2]])
    assert not np.isfinite(found[1]).all()
