"""Damaged folders of TensorFlow Datasets end in clear errors."""

import pathlib
import shutil
import warnings

import numpy as np
import pytest
from fuzzing import damaged, fuzzed
from hypothesis import given
from hypothesis import strategies as st

from tfdp.scripts import image_datasets
from tfdp.scripts.command_line import UsageError


def prepare(folder, file_format):
    """Writes a few images in the form of MNIST."""
    import tensorflow_datasets as tfds

    with tfds.core.registered.skip_registration():

        class Mnist(tfds.core.GeneratorBasedBuilder):
            """The name, splits and features of MNIST."""

            VERSION = tfds.core.Version("3.0.1")

            def _info(self):
                return tfds.core.DatasetInfo(
                    builder=self,
                    features=tfds.features.FeaturesDict(
                        {
                            "image": tfds.features.Image(shape=(28, 28, 1)),
                            "label": tfds.features.ClassLabel(num_classes=10),
                        }
                    ),
                    supervised_keys=("image", "label"),
                )

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples(8), "test": self._generate_examples(4)}

            def _generate_examples(self, count):
                for i in range(count):
                    image = np.random.default_rng(i).integers(0, 256, (28, 28, 1)).astype("uint8")
                    yield i, {"image": image, "label": i % 10}

    Mnist(data_dir=str(folder), file_format=file_format).download_and_prepare()


@pytest.fixture(scope="module", params=["tfrecord", "array_record"])
def data(request, tmp_path_factory):
    """A prepared data set, its files and whether it has random access."""
    folder = tmp_path_factory.mktemp(request.param)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepare(folder, request.param)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    contents = {path: path.read_bytes() for path in files}
    yield folder, contents, request.param == "array_record"
    shutil.rmtree(folder)


def load(data):
    folder, _, random_access = data
    found = image_datasets.load("mnist", data_dir=str(folder), random_access=random_access)
    assert found.image_shape == (28, 28, 1)
    return found


def test_undamaged_data(data):
    assert len(load(data).train) == 8


@fuzzed(40)
@given(drawn=st.data())
def test_damaged_data(data, drawn):
    folder, contents, _ = data
    path = drawn.draw(st.sampled_from(sorted(contents)))
    path.write_bytes(drawn.draw(damaged(contents[path])))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load(data)
    except UsageError as error:
        assert "dataset='mnist'" in str(error) or "'mnist'" in str(error)
    finally:
        path.write_bytes(contents[path])


def test_a_folder_that_is_not_whole(data):
    _, contents, _ = data
    (path,) = (path for path in contents if path.name == "dataset_info.json")
    pathlib.Path(path).unlink()
    try:
        with pytest.raises(UsageError, match="mnist"):
            load(data)
    finally:
        path.write_bytes(contents[path])
