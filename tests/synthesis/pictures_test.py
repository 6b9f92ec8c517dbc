"""Arrays of images, and grids of them."""

import numpy as np
import pytest

import tfdp
from tfdp.synthesis.pictures import as_images, as_labels


def shown(axes):
    return [np.asarray(a.images[0].get_array()) for a in axes if a.images]


def test_bytes_and_floats_become_the_same_images():
    bytes_ = np.random.default_rng(0).integers(0, 256, (3, 4, 5), dtype="uint8")
    images = as_images("x", bytes_)
    assert images.shape == (3, 4, 5, 1) and images.dtype == np.float32
    np.testing.assert_array_equal(images, as_images("x", (bytes_ / 255)[..., None]))
    assert images.max() == bytes_.max() / np.float32(255)


@pytest.mark.parametrize(
    "value, error",
    [
        (np.full((2, 3, 3, 1), -0.1), "floats from -0.1"),
        (np.full((2, 3, 3, 1), np.nan), "nan"),
        (np.zeros((2, 3, 3, 2)), r"\(2, 3, 3, 2\)"),
        (np.zeros((0, 3, 3)), r"\(0, 3, 3\)"),
    ],
)
def test_other_arrays_are_refused_as_values(value, error):
    with pytest.raises(ValueError, match=error):
        as_images("x", value)


@pytest.mark.parametrize("value", [np.zeros((2, 3, 3), "int32"), [np.zeros(2), np.zeros(3)], None])
def test_other_types_are_refused(value):
    with pytest.raises(TypeError, match="x must be|`x` must be"):
        as_images("x", value)


def test_labels_may_be_a_column_and_nothing_else():
    assert as_labels("y", [[1], [2]], 2).tolist() == [1, 2]
    for bad, error in (([1.0, 2.0], TypeError), ([1, -1], ValueError), ([1], ValueError)):
        with pytest.raises(error, match="`y`"):
            as_labels("y", bad, 2)


def test_rows_are_classes():
    labels = np.array([5, 2, 5, 2, 5])
    images = np.arange(5.0)[:, None, None, None] / 10 * np.ones((1, 2, 2, 1))
    figure = tfdp.synthesis.grid(images, labels, columns=2)
    assert [a.get_ylabel() for a in figure.axes] == ["2", "", "5", ""]
    assert np.allclose([s.mean() for s in shown(figure.axes)], [0.1, 0.3, 0.0, 0.2])


def test_without_labels_places_are_filled_in_order_and_the_rest_stays_empty():
    images = np.arange(5.0)[:, None, None, None] / 10 * np.ones((1, 2, 2, 3))
    figure = tfdp.synthesis.grid(images, columns=3)
    assert len(figure.axes) == 6 and not figure.axes[5].images
    assert np.allclose([s.mean() for s in shown(figure.axes)], [0.0, 0.1, 0.2, 0.3, 0.4])
