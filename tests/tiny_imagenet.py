"""A few images in the form in which TensorFlow Datasets prepares ImageNet."""

import pathlib
import warnings

import numpy as np

SPLITS = {"train": 40, "validation": 10, "test": 10}


def prepare(folder: pathlib.Path, file_format: str = "array_record") -> None:
    """Writes `imagenet2012` to a TFDS `data_dir`: images of several sizes, classes 0 to 3.

    The labels of the test split are -1, as those of ImageNet are. An image is darker the higher
    its class.
    """
    import tensorflow_datasets as tfds

    with tfds.core.registered.skip_registration():

        class Imagenet2012(tfds.core.GeneratorBasedBuilder):
            """The name, splits and features of ImageNet."""

            VERSION = tfds.core.Version("5.1.0")

            def _info(self):
                names = [f"n{i:08}" for i in range(1000)]
                return tfds.core.DatasetInfo(
                    builder=self,
                    features=tfds.features.FeaturesDict(
                        {
                            "image": tfds.features.Image(encoding_format="jpeg"),
                            "label": tfds.features.ClassLabel(names=names),
                            "file_name": tfds.features.Text(),
                        }
                    ),
                    supervised_keys=("image", "label"),
                )

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(split, n) for split, n in SPLITS.items()}

            def _generate_examples(self, split, count):
                numbers = np.random.default_rng(len(split))
                for i in range(count):
                    shape = (*numbers.integers(40, 80, 2), 3)
                    noise = numbers.integers(0, 30, shape)
                    name = f"{split}_{i}.jpeg"
                    yield (
                        name,
                        {
                            "image": (200 - 50 * (i % 4) + noise).astype("uint8"),
                            "label": -1 if split == "test" else i % 4,
                            "file_name": name,
                        },
                    )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Imagenet2012(data_dir=str(folder), file_format=file_format).download_and_prepare()
