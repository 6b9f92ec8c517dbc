"""Tests of how data sets are loaded."""

import numpy as np
import pytest

from tfdp.scripts import image_datasets
from tfdp.scripts.command_line import UsageError


def test_digits_are_split_into_every_fifth_and_the_rest():
    from sklearn import datasets

    data = image_datasets.load("digits")
    assert data.train.x.shape == (1437, 8, 8, 1)
    assert data.test.x.shape == (360, 8, 8, 1)
    assert data.num_classes == 10
    assert data.image_shape == (8, 8, 1)
    x, y = datasets.load_digits(return_X_y=True)
    np.testing.assert_array_equal(data.test.y, y[::5])
    np.testing.assert_array_equal(data.test.x.reshape(360, 64), x[::5].astype("float32") / 16)
    assert sorted([*data.train.y, *data.test.y]) == sorted(y)


def test_digits_lie_between_zero_and_one():
    data = image_datasets.load("digits")
    assert data.train.x.dtype == np.float32
    assert (data.train.x.min(), data.train.x.max()) == (0.0, 1.0)


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
    assert data.train.x.shape == (examples, *shape)
    assert data.test.x.shape == (10_000, *shape)
    assert data.train.x.dtype == np.float32
    assert data.train.x.max() == 1.0
    assert set(np.unique(data.test.y)) == set(range(data.num_classes)) == set(range(10))


def test_the_folder_is_taken_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv(image_datasets.DATA_DIR_VARIABLE, str(tmp_path))
    with pytest.raises(UsageError, match=f"'mnist' is not prepared under {tmp_path}.*--download"):
        image_datasets.load("mnist")


def test_an_unknown_name_is_refused(tmp_path):
    with pytest.raises(UsageError, match="Received: dataset='no_such_set'$"):
        image_datasets.load("no_such_set", data_dir=str(tmp_path))


def test_digits_are_no_files():
    with pytest.raises(UsageError, match="--random_access is for sets of TFDS"):
        image_datasets.load("digits", random_access=True)
    with pytest.raises(UsageError, match="needs --random_access. Received: image_size=8"):
        image_datasets.load("digits", image_size=8)


def test_files_without_random_access_are_refused_with_the_remedy(prepared):
    with pytest.raises(UsageError, match="prepared as tfrecord.*tfds build mnist --file_format="):
        image_datasets.load("mnist", data_dir=str(prepared("mnist")), random_access=True)
