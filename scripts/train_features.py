"""Features of images that are not learned, and the private statistics that they are scaled by.

They are worked out once and kept in a file, so that training on them takes a minute or two. Nothing
of them is learned: they cost no privacy. What is learned of the features before training, their
mean and perhaps their strongest directions, is noisy and charged.
"""

import dataclasses
import functools
import hashlib
import json
import math
import os
import pathlib

import dp_accounting
import keras
import numpy as np

import tfdp
from tfdp.scripts import read_files, whole_files
from tfdp.scripts.command_line import UsageError
from tfdp.scripts.image_datasets import ImageData
from tfdp.scripts.images import ArrayImages, Images

STATISTICS = ("none", "mean", "directions")
# The layers that work features out, and the number of groups that they are normalized in. Tramer
# and Boneh (2021) group the 81 scattering features of a channel so for Fashion-MNIST.
_KINDS = {
    "scattering": ((tfdp.layers.Scattering2D,), 27),
    "deslanted_scattering": ((tfdp.layers.Deslant2D, tfdp.layers.Scattering2D), 27),
    "patches": ((functools.partial(tfdp.layers.PatchFeatures2D, cells=3),), 25),
    "mirrored_patches": (
        (functools.partial(tfdp.layers.PatchFeatures2D, cells=3, mirrored=True),),
        25,
    ),
}
# Several kinds, joined by a plus, are put behind one another.
FEATURES = ("none", *_KINDS, "scattering+patches", "scattering+mirrored_patches")
_BATCH = 100
# Of the largest norm. Found by looking at Fashion-MNIST, where it clips about a fifth of the
# deviations from the mean; as any hyper-parameter, it is not charged.
_CENTRED_NORM = 0.7


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Which private statistics are taken of the features.

    Attributes:
        feature_statistics: `"mean"`, or `"directions"` for the mean and strongest directions.
        statistics_noise_multiplier: Their noise over their sensitivity.
        num_directions: How many directions; 0 for the mean alone.
    """

    feature_statistics: str
    statistics_noise_multiplier: float
    num_directions: int

    @property
    def event(self) -> dp_accounting.DpEvent:
        """What they release."""
        return tfdp.statistics.measure_event(self.statistics_noise_multiplier, self.num_directions)

    def measure(self, features: Images) -> tfdp.statistics.Statistics:
        """Releases the statistics of the training images' features."""
        x, _ = features.arrays()
        bound = math.sqrt(math.prod(x.shape[1:]))  # Normalized features are no longer than that.
        return tfdp.statistics.measure(
            x,
            l2_norm_clip=bound,
            noise_multiplier=self.statistics_noise_multiplier,
            num_directions=self.num_directions,
            centred_norm_clip=_CENTRED_NORM * bound if self.num_directions else None,
        )


def recorded(settings: dict) -> Statistics | None:
    """The statistics in the settings of a record; `None` for none."""
    if "num_directions" not in settings:
        return None
    return Statistics(**{f.name: settings[f.name] for f in dataclasses.fields(Statistics)})


def extractor(features: str, image_shape: tuple[int, int, int]) -> keras.Model:
    """A model from images to features, normalized for each image by itself.

    Args:
        features: One of `FEATURES` but `"none"`.
        image_shape: The shape of an image.

    Returns:
        A model to features of shape `(batch, height, width, channels)`; of several kinds height
        and width are 1.

    Raises:
        UsageError: If such images have no such features, or a package is missing.
    """
    kinds = features.split("+")
    if len(kinds) == 1:
        return _extractor_of_kind(features, image_shape)
    images = keras.Input(image_shape)
    found = [
        keras.layers.Reshape((1, 1, -1))(_extractor_of_kind(kind, image_shape)(images))
        for kind in kinds
    ]
    together = keras.layers.Concatenate()(found)
    return keras.Model(images, together, name=features.replace("+", "_and_"))


def _extractor_of_kind(kind: str, image_shape: tuple[int, int, int]) -> keras.Model:
    layers, groups = _KINDS[kind]
    try:
        return keras.Sequential(
            [
                keras.Input(image_shape),
                *(layer() for layer in layers),
                keras.layers.GroupNormalization(groups, epsilon=1e-5, center=False, scale=False),
            ],
            name=kind,
        )
    except (ImportError, ValueError) as error:
        raise UsageError(f"--features={kind} does not work: {error}") from error


def extracted(data: ImageData, features: str, folder: str) -> ImageData:
    """The data with features in place of images, from the files of an earlier run if there are any.

    Args:
        data: Images, in memory.
        features: One of `FEATURES` but `"none"`.
        folder: Where features are kept, a file for each set of images.

    Raises:
        UsageError: If the images have no such features, or the folder cannot be written to.
    """
    models = [_extractor_of_kind(kind, data.image_shape) for kind in features.split("+")]
    try:
        os.makedirs(folder, exist_ok=True)
        train, test = (
            _joined([_features(model, part, folder) for model in models])
            for part in (data.train, data.test)
        )
    except OSError as error:
        raise UsageError(
            f"--features_dir cannot be used: {error}. Received: features_dir={folder!r}"
        ) from error
    return dataclasses.replace(data, train=train, test=test)


def whole(features: str, image_shape: tuple[int, int, int], head: keras.Model) -> keras.Model:
    """The model from images that a model of their features is a part of."""
    return keras.Sequential(
        [keras.Input(image_shape), extractor(features, image_shape), *head.layers],
        name=head.name,
    )


def with_scaling(head: keras.Model, num_directions: int) -> keras.Model:
    """A model of features that are scaled first, by statistics that are still to be set."""
    scaling = tfdp.layers.PrincipalScaling(num_directions, name="statistics")
    return keras.Sequential(
        [keras.Input(head.input_shape[1:]), scaling, *head.layers], name=head.name
    )


def _joined(parts: list[ArrayImages]) -> ArrayImages:
    """Features of several kinds, laid out as those of `extractor`."""
    if len(parts) == 1:
        return parts[0]
    rows = [part.x.reshape(len(part), 1, 1, -1) for part in parts]
    return ArrayImages(np.concatenate(rows, axis=-1), parts[0].y)


def _features(model: keras.Model, images: Images, folder: str) -> ArrayImages:
    x, y = images.arrays()
    settings = [layer.get_config() | {"name": "", "dtype": ""} for layer in model.layers]
    told = hashlib.sha256(json.dumps([settings, x.shape], sort_keys=True, default=str).encode())
    for array in (x, *model.get_weights()):
        told.update(np.ascontiguousarray(array).tobytes())
    path = str(pathlib.Path(folder) / f"{model.name}_{told.hexdigest()[:20]}.npy")
    if not os.path.exists(path):
        print(f"Features of {len(x):,} images, for {path}")
        bar = keras.utils.Progbar(len(x), verbose=2 if not os.isatty(1) else 1)
        features = np.empty((len(x), *model.output_shape[1:]), "float16")
        for start in range(0, len(x), _BATCH):
            part = slice(start, start + _BATCH)
            features[part] = model.predict_on_batch(x[part])
            bar.update(min(start + _BATCH, len(x)))
        with whole_files.replacing(path) as partial:
            np.save(partial, features)
    features = read_files.array(path)
    shape = (len(x), *model.output_shape[1:])
    if features.shape != shape or features.dtype != "float16" or not np.isfinite(features).all():
        raise UsageError(f"The file holds no features of these images. Received: file={path!r}")
    return ArrayImages(features, y)
