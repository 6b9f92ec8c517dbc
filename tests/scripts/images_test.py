"""Tests of images in memory and in files."""

import numpy as np
import pytest
import tiny_imagenet

from tfdp.scripts import image_datasets
from tfdp.scripts.command_line import UsageError
from tfdp.scripts.images import ArrayImages, FileImages, resized

IMAGES = np.arange(10 * 4 * 4 * 3, dtype="uint8").reshape(10, 4, 4, 3)


class Source:
    """A random-access source, as `tfds.data_source` is."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return {"image": IMAGES[index], "label": np.int64(index)}

    def __getitems__(self, indices):
        return [self[index] for index in indices]


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    pytest.importorskip("array_record")
    folder = tmp_path_factory.mktemp("imagenet")
    tiny_imagenet.prepare(folder)
    return folder


@pytest.fixture(params=["memory", "files"])
def images(request):
    if request.param == "memory":
        return ArrayImages(IMAGES.astype("float32") / 255, np.arange(10))
    return FileImages(Source(), "image", "label")


def test_both_kinds_are_the_same_images(images):
    assert len(images) == 10 and images.image_shape == (4, 4, 3)
    x, y = images.arrays()
    np.testing.assert_array_equal(x, IMAGES.astype("float32") / 255)
    np.testing.assert_array_equal(y, range(10))
    (batch,) = images.batches()
    np.testing.assert_array_equal(batch[0], x)
    np.testing.assert_array_equal(batch[1], y)


def test_what_is_split_off_is_in_one_part_alone(images):
    first, others = images.split(7)
    assert (len(first), len(others)) == (7, 3)
    front, back = others.split(1)
    labels = [part.arrays()[1].tolist() for part in (first, front, back)]
    assert labels == [[*range(7)], [7], [8, 9]]
    assert others.batches().unbatch().cardinality().numpy() in (3, -2)
    assert [int(y) for _, y in others.batches().unbatch()] == [7, 8, 9]


def test_poisson_samples_are_of_the_images(images):
    batches = images.split(8)[0].poisson(8, steps_per_epoch=3)
    assert batches.sampling_probability == 1.0 and len(batches) == 3
    for x, y in batches:
        np.testing.assert_array_equal(y, range(8))
        np.testing.assert_array_equal(x, IMAGES[:8].astype("float32") / 255)


@pytest.mark.parametrize("shape", [(7, 7, 1), (3, 9, 1), (64, 48, 3), (8, 100, 3), (256, 257, 3)])
def test_images_of_any_size_are_brought_to_one(shape):
    image = np.full(shape, 7, "uint8")
    assert (resized(image, 7) == np.full((7, 7, shape[-1]), 7)).all()


def test_the_middle_is_cut_out_and_a_sixteenth_is_left_around_it():
    image = np.zeros((256, 320, 1), "uint8")
    image[16:-16, 48:-48] = 1
    assert resized(image, 224).all()
    image[16, 48] = image[239, 271] = 2
    cut = resized(image, 224)
    assert cut[0, 0] == cut[-1, -1] == 2


def test_images_of_several_sizes_are_read_from_files(imagenet):
    with pytest.raises(UsageError, match="--random_access --image_size=SIZE.*'imagenet2012'$"):
        image_datasets.load("imagenet2012", data_dir=str(imagenet))
    data = image_datasets.load(
        "imagenet2012", data_dir=str(imagenet), random_access=True, image_size=24
    )
    assert data.image_shape == (24, 24, 3) and data.num_classes == 1000
    assert len(data.train) == tiny_imagenet.SPLITS["train"]
    for split in (data.train, data.test):
        x, y = split.arrays()
        np.testing.assert_allclose(255 * x.mean((1, 2, 3)), 214.5 - 50 * y, atol=4)


def test_a_test_split_without_labels_is_not_evaluated_on(imagenet):
    data = image_datasets.load(
        "imagenet2012", data_dir=str(imagenet), random_access=True, image_size=8
    )
    assert sorted(data.test.arrays()[1]) == sorted(i % 4 for i in range(10))
