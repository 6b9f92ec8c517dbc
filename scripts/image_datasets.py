"""Image classification data: scikit-learn's digits, or any such set of TFDS."""

import dataclasses
import os

import numpy as np
from absl import flags
from google.protobuf import json_format

from tfdp.scripts import read_files
from tfdp.scripts.command_line import UsageError
from tfdp.scripts.images import ArrayImages, FileImages, Images

DATA_DIR_VARIABLE = "TFDP_DATA_DIR"


@dataclasses.dataclass(frozen=True)
class ImageData:
    """A data set for image classification.

    Attributes:
        name: The name it was asked for by.
        train: Training images.
        test: Test images.
        num_classes: The number of classes.
    """

    name: str
    train: Images
    test: Images
    num_classes: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of one image, `(height, width, channels)`."""
        return self.train.image_shape


def declare_flags(values: flags.FlagValues) -> None:
    """Defines the flags that say where data sets are, which all programs that load them have."""
    flags.DEFINE_string(
        "data_dir",
        None,
        "Folder of prepared TensorFlow Datasets. Defaults to the environment variable "
        f"{DATA_DIR_VARIABLE}, and without it to TFDS's own default.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "download", False, "Fetch and prepare data sets that are missing.", flag_values=values
    )


def load(
    name: str,
    *,
    data_dir: str | None = None,
    download: bool = False,
    random_access: bool = False,
    image_size: int | None = None,
) -> ImageData:
    """Loads a data set by name.

    Args:
        name: `"digits"`, or the name of an image classification data set of TensorFlow Datasets.
        data_dir: The folder of prepared TFDS data. Defaults to the environment variable
            `TFDP_DATA_DIR`, and without it to TFDS's own default.
        download: Whether TFDS may fetch and prepare data that are not there.
        random_access: Whether images are read from files when they are needed, and not into
            memory beforehand. Needs files of a format with random access, as ArrayRecord.
        image_size: With `random_access`, the height and width that images are brought to:
            `images.resized`. Defaults to `None`: they are of one size already.

    Returns:
        The data.

    Raises:
        UsageError: If there is no such data set, it is not prepared and may not be downloaded, or
            it is not one of images of equal size with one label each.
    """
    if image_size is not None and not random_access:
        raise UsageError(f"--image_size needs --random_access. Received: image_size={image_size}")
    if name == "digits":
        if random_access:
            raise UsageError("The digits are no files: --random_access is for sets of TFDS.")
        return _digits()
    folder = data_dir or os.environ.get(DATA_DIR_VARIABLE) or None
    try:
        return _of_tfds(name, folder, download, random_access, image_size)
    except UsageError:
        raise
    except (*read_files.UNREADABLE, json_format.Error) as error:
        raise UsageError(
            f"The files of the data set cannot be read: {read_files.short(error)}. Prepare it "
            f"anew, or name another --data_dir. Received: dataset={name!r}, data_dir={folder!r}"
        ) from error


def _of_tfds(
    name: str, folder: str | None, download: bool, random_access: bool, image_size: int | None
) -> ImageData:
    builder = _prepared(name, folder, download, random_access)
    keys = _keys(name, builder.info, one_size=image_size is None)

    def images(split: str) -> Images:
        if random_access:
            return FileImages(_source(builder, name, split), *keys, image_size)
        return _in_memory(builder, split, *keys)

    splits = builder.info.splits
    held_out = [split for split in ("test", "validation") if split in splits]
    if "train" not in splits or not held_out:
        raise UsageError(
            "The data set needs the split 'train' and one of 'test' and 'validation'. "
            f"Received: dataset={name!r}, with the splits {sorted(splits)}"
        )
    test = images(held_out[0])
    if len(held_out) > 1 and not _has_labels(test):  # Those of ImageNet's test images are secret.
        test = images(held_out[1])
    data = ImageData(name, images("train"), test, builder.info.features[keys[1]].num_classes)
    _ = data.image_shape  # Of files that are read when they are needed, one is read now.
    return data


def _digits() -> ImageData:
    """The 1,797 digits of scikit-learn: every fifth one, from the first, is for testing."""
    from sklearn import datasets

    digits = datasets.load_digits()
    x = (digits.images[..., np.newaxis] / 16).astype("float32")
    y = digits.target.astype("int64")
    test = np.arange(len(x)) % 5 == 0
    return ImageData(
        "digits", ArrayImages(x[~test], y[~test]), ArrayImages(x[test], y[test]), num_classes=10
    )


def _prepared(name: str, data_dir: str | None, download: bool, random_access: bool):
    """TFDS's builder of a set that is prepared."""
    import tensorflow_datasets as tfds

    def builder(**options):
        return tfds.builder(name, data_dir=data_dir, **options)

    try:
        found = builder()
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise UsageError(
            f"TensorFlow Datasets knows no data set of this name. Received: dataset={name!r}"
        ) from error
    if found.data_path.exists():
        return found
    if not download:
        raise UsageError(
            f"The data set {name!r} is not prepared under {os.fspath(found.data_path)}; "
            f"--download fetches and prepares it, --data_dir or {DATA_DIR_VARIABLE} names "
            "another folder"
        )
    if random_access:
        found = builder(file_format=tfds.core.FileFormat.ARRAY_RECORD)
    try:
        found.download_and_prepare()
    except (AssertionError, OSError, tfds.download.DownloadError) as error:
        raise UsageError(f"The data set {name!r} could not be prepared: {error}") from error
    return found


def _source(builder, name: str, split: str):
    try:
        return builder.as_data_source(split=split)
    except NotImplementedError as error:
        raise UsageError(
            "--random_access needs files with random access, but the data set is prepared as "
            f"{builder.info.file_format.value}. Prepare it anew with `tfds build {name} "
            "--file_format=array_record`, or with --download and another --data_dir. "
            f"Received: dataset={name!r}"
        ) from error


def _in_memory(builder, split: str, image_key: str, label_key: str) -> ArrayImages:
    import tensorflow_datasets as tfds

    columns = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1))
    return ArrayImages(
        columns[image_key].astype("float32") / 255, columns[label_key].astype("int64")
    )


def _has_labels(images: Images) -> bool:
    """Whether the first label is one: TFDS writes -1 for those that are kept secret."""
    _, labels = images.split(1)[0].arrays()
    return labels[0] >= 0


def _keys(name: str, info, *, one_size: bool) -> tuple[str, str]:
    """The names of the image and of the label, of a set that has one of each."""
    import tensorflow_datasets as tfds

    keys = info.supervised_keys
    if keys and len(keys) == 2:
        image, label = (info.features[key] for key in keys)
        if isinstance(image, tfds.features.Image) and isinstance(label, tfds.features.ClassLabel):
            if one_size and None in image.shape:
                raise UsageError(
                    "The images of this data set differ in size: bring them to one by "
                    f"--random_access --image_size=SIZE. Received: dataset={name!r}"
                )
            return keys
    raise UsageError(
        f"Only sets of images with one class each can be trained on. Received: dataset={name!r}"
    )
