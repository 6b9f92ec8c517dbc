"""Tests of how data sets are loaded."""

import numpy as np
import pytest

from tfdp.scripts import image_datasets
from tfdp.scripts.command_line import UsageError


def test_digits_are_split_into_every_fifth_and_the_rest():
    from sklearn import datasets

    data = image_datasets.load("digits")
    assert data.x_train.shape == (1437, 8, 8, 1)
    assert data.x_test.shape == (360, 8, 8, 1)
    assert data.num_classes == 10
    assert data.image_shape == (8, 8, 1)
    x, y = datasets.load_digits(return_X_y=True)
    np.testing.assert_array_equal(data.y_test, y[::5])
    np.testing.assert_array_equal(data.x_test.reshape(360, 64), x[::5].astype("float32") / 16)
    assert sorted([*data.y_train, *data.y_test]) == sorted(y)


def test_digits_lie_between_zero_and_one():
    data = image_datasets.load("digits")
    assert data.x_train.dtype == np.float32
    assert (data.x_train.min(), data.x_train.max()) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("name", "examples", "shape"),
    [
        ("mnist", 60_000, (28, 28, 1)),
        ("fashion_mnist", 60_000, (28, 28, 1)),
        ("cifar10_jpeg", 50_000, (32, 32, 3)),
    ],
)
def test_prepared_sets_of_tensorflow_datasets(prepared, name, examples, shape):
    data = image_datasets.load(name, data_dir=str(prepared(name)))
    assert data.x_train.shape == (examples, *shape)
    assert data.x_test.shape == (10_000, *shape)
    assert data.x_train.dtype == np.float32
    assert data.x_train.max() == 1.0
    assert set(np.unique(data.y_test)) == set(range(data.num_classes)) == set(range(10))


def test_the_folder_is_taken_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv(image_datasets.DATA_DIR_VARIABLE, str(tmp_path))
    with pytest.raises(UsageError, match=f"'mnist' is not prepared under {tmp_path}.*--download"):
        image_datasets.load("mnist")


def test_an_unknown_name_is_refused(tmp_path):
    with pytest.raises(UsageError, match="Received: dataset='no_such_set'$"):
        image_datasets.load("no_such_set", data_dir=str(tmp_path))
