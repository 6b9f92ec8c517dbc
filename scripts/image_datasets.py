"""Image classification data as arrays: scikit-learn's digits, or any such set of TFDS."""

import dataclasses
import os

import numpy as np

from tfdp.scripts.command_line import UsageError

DATA_DIR_VARIABLE = "TFDP_DATA_DIR"


@dataclasses.dataclass(frozen=True)
class ImageData:
    """A data set for image classification, in memory.

    Attributes:
        name: The name it was asked for by.
        x_train: Training images, float32 in [0, 1], shape `(examples, height, width, channels)`.
        y_train: Training labels, int64, shape `(examples,)`.
        x_test: Test images.
        y_test: Test labels.
        num_classes: The number of classes.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    num_classes: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of one image, `(height, width, channels)`."""
        return self.x_train.shape[1:]


def load(name: str, *, data_dir: str | None = None, download: bool = False) -> ImageData:
    """Loads a data set by name.

    Args:
        name: `"digits"`, or the name of an image classification data set of TensorFlow Datasets.
        data_dir: The folder of prepared TFDS data. Defaults to the environment variable
            `TFDP_DATA_DIR`, and without it to TFDS's own default.
        download: Whether TFDS may fetch and prepare data that are not there.

    Returns:
        The data.

    Raises:
        UsageError: If there is no such data set, it is not prepared and may not be downloaded, or
            it is not one of images of equal size with one label each.
    """
    if name == "digits":
        return _digits()
    return _from_tfds(name, data_dir or os.environ.get(DATA_DIR_VARIABLE) or None, download)


def _digits() -> ImageData:
    """The 1,797 digits of scikit-learn: every fifth one, from the first, is for testing."""
    from sklearn import datasets

    digits = datasets.load_digits()
    x = (digits.images[..., np.newaxis] / 16).astype("float32")
    y = digits.target.astype("int64")
    test = np.arange(len(x)) % 5 == 0
    return ImageData("digits", x[~test], y[~test], x[test], y[test], num_classes=10)


def _from_tfds(name: str, data_dir: str | None, download: bool) -> ImageData:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise UsageError(
            f"TensorFlow Datasets knows no data set of this name. Received: dataset={name!r}"
        ) from error
    if not builder.data_path.exists():
        if not download:
            raise UsageError(
                f"The data set {name!r} is not prepared under {os.fspath(builder.data_path)}; "
                f"--download fetches and prepares it, --data_dir or {DATA_DIR_VARIABLE} names "
                "another folder"
            )
        builder.download_and_prepare()
    image_key, label_key = _keys(name, builder.info)
    held_out = next((s for s in ("test", "validation") if s in builder.info.splits), None)
    if "train" not in builder.info.splits or held_out is None:
        raise UsageError(
            "The data set needs the split 'train' and one of 'test' and 'validation'. "
            f"Received: dataset={name!r}, with the splits {sorted(builder.info.splits)}"
        )

    def arrays(split: str) -> tuple[np.ndarray, np.ndarray]:
        columns = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1))
        return columns[image_key].astype("float32") / 255, columns[label_key].astype("int64")

    classes = builder.info.features[label_key].num_classes
    return ImageData(name, *arrays("train"), *arrays(held_out), num_classes=classes)


def _keys(name: str, info) -> tuple[str, str]:
    """The names of the image and of the label, of a set that has one of each."""
    import tensorflow_datasets as tfds

    keys = info.supervised_keys
    if keys and len(keys) == 2:
        image, label = (info.features[key] for key in keys)
        if (
            isinstance(image, tfds.features.Image)
            and isinstance(label, tfds.features.ClassLabel)
            and None not in image.shape
        ):
            return keys
    raise UsageError(
        "Only sets of images of one size with one class each can be trained on. "
        f"Received: dataset={name!r}"
    )
