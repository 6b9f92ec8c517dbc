"""Hyper-parameters that work, by data set, and the models that `train.py` can train."""

import dataclasses
from collections.abc import Callable

import keras

import tfdp


@dataclasses.dataclass(frozen=True)
class Preset:
    """What `train.py` takes for each flag that is not given.

    Attributes:
        model: A name in `MODELS`.
        batch_size: The expected batch size.
        epochs: Passes over the data, on average.
        learning_rate: The learning rate.
        l2_norm_clip: The bound on the norm of one example's gradient.
        target_epsilon: The privacy budget that the noise is calibrated to.
        delta: The delta of the guarantee.
        momentum: The momentum of SGD.
        optimizer: A name in `OPTIMIZERS`.
        activation: The activation between layers.
        augmentation: A name in `AUGMENTATIONS`.
        augmentation_multiplicity: Augmented views of each example.
        ema_decay: Decay of the averaged weights, `None` for no average.
        random_access: Whether images are read from files when they are needed.
        image_size: The height and width that images are brought to, `None` for their own.
        feature_statistics: Private statistics of features, a name in `train_features.STATISTICS`.
        num_directions: How many directions of features are scaled down, where there are any.
        statistics_noise_multiplier: The noise of private statistics over their sensitivity.
    """

    model: str
    batch_size: int
    epochs: int
    learning_rate: float
    l2_norm_clip: float
    target_epsilon: float
    delta: float
    momentum: float = 0.9
    optimizer: str = "sgd"
    activation: str = "tanh"
    augmentation: str = "none"
    augmentation_multiplicity: int = 1
    ema_decay: float | None = None
    random_access: bool = False
    image_size: int | None = None
    feature_statistics: str = "none"
    num_directions: int = 12
    statistics_noise_multiplier: float = 20.0


# MNIST, Fashion-MNIST and CIFAR-10: batch, rate, clip norm and epochs are those of Tramer and
# Boneh (2021), the budgets those of Papernot et al. (2021). Digits: found here.
PRESETS = {
    "digits": Preset("digits_mlp", 256, 40, 1.0, 0.5, target_epsilon=8.0, delta=1e-4),
    "mnist": Preset("mnist_cnn", 512, 40, 0.5, 0.1, target_epsilon=2.93, delta=1e-5),
    "fashion_mnist": Preset("mnist_cnn", 2048, 40, 4.0, 0.1, target_epsilon=2.7, delta=1e-5),
    "cifar10": Preset("cifar_cnn_dense", 1024, 30, 1.0, 0.1, target_epsilon=7.53, delta=1e-5),
}
PRESETS["cifar10_jpeg"] = PRESETS["cifar10"]  # a copy of CIFAR-10 coded as JPEG

# Those of a linear model of scattering features. Batch, rate, clip norm and epochs are those of
# Tramer and Boneh (2021), who do not average weights; the statistics were chosen here.
_LINEAR = {
    "l2_norm_clip": 0.1,
    "ema_decay": 0.95,
    "feature_statistics": "directions",
}
_FEATURES_OF_A_CHANNEL = 81
SCATTERING_PRESETS = {
    "digits": Preset("linear", 256, 40, 4.0, target_epsilon=8.0, delta=1e-4, **_LINEAR),
    "mnist": Preset("linear", 4096, 40, 8.0, target_epsilon=2.93, delta=1e-5, **_LINEAR),
    "fashion_mnist": Preset("linear", 8192, 40, 16.0, target_epsilon=2.7, delta=1e-5, **_LINEAR),
    # The second moments of 15,552 features would take minutes and gigabytes.
    "cifar10": Preset(
        *("linear", 8192, 60, 4.0),
        target_epsilon=7.53,
        delta=1e-5,
        **{**_LINEAR, "feature_statistics": "mean"},
    ),
}
SCATTERING_PRESETS["cifar10_jpeg"] = SCATTERING_PRESETS["cifar10"]
# Of handwriting that is brought upright. Chosen here, on images of MNIST that were held out.
DESLANTED_PRESETS = {
    **SCATTERING_PRESETS,
    "mnist": Preset(
        *("linear", 8192, 40, 8.0),
        target_epsilon=2.93,
        delta=1e-5,
        statistics_noise_multiplier=8.0,
        **_LINEAR,
    ),
}

# Those of a linear model of features of patches, alone or beside scattering features. Chosen here,
# on images that were held out of the training set.
_PATCHES = {**_LINEAR, "feature_statistics": "mean"}
PATCH_PRESETS = {
    "digits": Preset("linear", 256, 40, 4.0, target_epsilon=8.0, delta=1e-4, **_PATCHES),
    "mnist": Preset("linear", 8192, 40, 8.0, target_epsilon=2.93, delta=1e-5, **_PATCHES),
    "fashion_mnist": Preset("linear", 8192, 40, 8.0, target_epsilon=2.7, delta=1e-5, **_PATCHES),
    "cifar10": Preset("linear", 8192, 60, 8.0, target_epsilon=7.53, delta=1e-5, **_PATCHES),
}
PATCH_PRESETS["cifar10_jpeg"] = PATCH_PRESETS["cifar10"]

# By name, for `--preset`: those of Sander et al. (2023), sections 4 and 5 and their code, for many
# devices or to simulate. CIFAR-10: 2,500 steps. ImageNet: 18,000 steps, and the delta is 1 /
# 1,281,167 rounded down, where they rounded it up.
RECIPES = {
    "tan_cifar10": Preset(
        "wide_resnet",
        batch_size=4096,
        epochs=192,
        learning_rate=4.0,
        l2_norm_clip=1.0,
        target_epsilon=8.0,
        delta=1e-5,
        momentum=0.0,
        activation="relu",
        augmentation="shift_flip",
        augmentation_multiplicity=16,
        ema_decay=0.9999,
    ),
    "tan_imagenet": Preset(
        "nf_resnet50",
        batch_size=32_768,
        epochs=450,
        learning_rate=32.0,
        l2_norm_clip=1.0,
        target_epsilon=8.0,
        delta=7.8e-7,
        momentum=0.0,
        activation="relu",
        augmentation="shift_flip_jitter",
        augmentation_multiplicity=8,
        ema_decay=0.999,
        random_access=True,
        image_size=224,
    ),
}


def preset_for(dataset: str, image_shape: tuple[int, ...], features: str = "none") -> Preset:
    """The preset of a data set; for one without, that of the most similar images.

    Features of patches do not tell whether images were in colour: they have that of MNIST.

    Args:
        dataset: The name of the data set.
        image_shape: The shape of one image, or of its features.
        features: A name in `train_features.FEATURES`.
    """
    presets, channels = {
        "none": (PRESETS, 3),
        "scattering": (SCATTERING_PRESETS, 3 * _FEATURES_OF_A_CHANNEL),
        "deslanted_scattering": (DESLANTED_PRESETS, 3 * _FEATURES_OF_A_CHANNEL),
    }.get(features, (PATCH_PRESETS, None))
    if dataset in presets:
        return presets[dataset]
    return presets["cifar10" if image_shape[-1] == channels else "mnist"]


ModelBuilder = Callable[..., keras.Model]


def _cifar_cnn(variant: str) -> ModelBuilder:
    def build(activation, *, input_shape: tuple[int, int, int], num_classes: int) -> keras.Model:
        return tfdp.models.cifar_cnn(
            activation,
            variant,
            input_shape=input_shape,
            num_classes=num_classes,
            normalize=input_shape[-1] == 3,
        )

    return build


def _standardized_mnist_cnn(activation, **shapes) -> keras.Model:
    return tfdp.models.mnist_cnn(activation, standardize=True, **shapes)


def _deslanted_mnist_cnn(activation, *, input_shape, **options) -> keras.Model:
    network = tfdp.models.mnist_cnn(activation, input_shape=input_shape, **options)
    return keras.Sequential(
        [keras.Input(input_shape), tfdp.layers.Deslant2D(), *network.layers], name=network.name
    )


def _wide_resnet(activation, **shapes) -> keras.Model:
    del activation  # ReLU, as `train_settings` has made sure.
    return tfdp.models.wide_resnet(normalize=shapes["input_shape"][-1] == 3, **shapes)


def _nf_resnet50(activation, *, input_shape, num_classes: int) -> keras.Model:
    del activation  # ReLU, likewise.
    # Not by the statistics of ImageNet's pixels, which here would be those of the private data.
    scaling = keras.layers.Rescaling(4.0, -2.0)
    network = tfdp.models.nf_resnet50(input_shape=input_shape, num_classes=num_classes)
    return keras.Sequential([keras.Input(input_shape), scaling, network], name="nf_resnet50")


def _linear(activation, *, input_shape, num_classes: int) -> keras.Model:
    del activation  # There is none.
    return keras.Sequential(
        [
            keras.Input(input_shape),
            keras.layers.Flatten(),
            keras.layers.Dense(
                num_classes, kernel_initializer="zeros", dtype="float32", name="logits"
            ),
        ],
        name="linear",
    )


def _scattering_cnn(activation, *, input_shape, num_classes: int) -> keras.Model:
    return tfdp.models.scattering_cnn(
        activation,
        "wide" if input_shape[-1] == 3 * _FEATURES_OF_A_CHANNEL else "narrow",
        input_shape=input_shape,
        num_classes=num_classes,
    )


MODELS: dict[str, ModelBuilder] = {
    "linear": _linear,
    "scattering_cnn": _scattering_cnn,
    "patch_cnn": tfdp.models.patch_cnn,
    "digits_mlp": tfdp.models.digits_mlp,
    "mnist_cnn": tfdp.models.mnist_cnn,
    "mnist_cnn_standardized": _standardized_mnist_cnn,
    "mnist_cnn_deslanted": _deslanted_mnist_cnn,
    "cifar_cnn": _cifar_cnn("all_conv"),
    "cifar_cnn_dense": _cifar_cnn("dense"),
    "wide_resnet": _wide_resnet,
    "nf_resnet50": _nf_resnet50,
}
# Models that have an activation of their own.
ACTIVATIONS = {"wide_resnet": "relu", "nf_resnet50": "relu"}


def _shift(image_shape: tuple[int, ...]) -> keras.layers.Layer:
    """Four pixels in the 32 of CIFAR-10."""
    return tfdp.layers.RandomShift(image_shape[0] // 8)


def _shift_flip(image_shape: tuple[int, ...]) -> keras.layers.Layer:
    return keras.Sequential([_shift(image_shape), keras.layers.RandomFlip("horizontal")])


def _shift_flip_jitter(image_shape: tuple[int, ...]) -> keras.layers.Layer:
    """Twenty pixels in the 224 of ImageNet; and the colours of three in ten images change.

    By Keras's measure a saturation of f multiplies that of a pixel by f / (1 - f), here by 0.2 to
    1.8, and a hue of f turns the circle of colours by f / 2.
    """
    jitter = keras.layers.RandomColorJitter(
        value_range=(0, 1),
        brightness_factor=0.8,
        contrast_factor=0.8,
        saturation_factor=(1 / 6, 9 / 14),
        hue_factor=0.4,
    )
    return keras.Sequential(
        [
            tfdp.layers.RandomShift(image_shape[0] * 20 // 224),
            keras.layers.RandomFlip("horizontal"),
            tfdp.layers.RandomApply(jitter, rate=0.3),
        ]
    )


AUGMENTATIONS: dict[str, Callable[[tuple[int, ...]], keras.layers.Layer | None]] = {
    "none": lambda image_shape: None,
    "shift": _shift,
    "shift_flip": _shift_flip,
    "shift_flip_jitter": _shift_flip_jitter,
}

OPTIMIZERS = {
    "sgd": tfdp.optimizers.VectorizedDPKerasSGDOptimizer,
    "adam": tfdp.optimizers.VectorizedDPKerasAdamOptimizer,
    "adagrad": tfdp.optimizers.VectorizedDPKerasAdagradOptimizer,
}
