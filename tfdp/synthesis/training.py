"""Training a denoising network: a Keras model whose loss is that of a diffusion model."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from tfdp import _validate
from tfdp.synthesis.schedule import NoiseSchedule


@keras.saving.register_keras_serializable(package="tfdp")
class Denoiser(keras.Model):
    """Draws a time step and noise for each image, and returns by how much a network misses them.

    For row i, independently of all others, it draws a time step t, uniformly, and Gaussian noise;
    the network sees ``signal_t * image + noise_t * noise``, t and the label, and what it predicts
    minus what it should predict is returned. With `DenoisingLoss` the loss of an example is then
    DDPM's. With probability ``label_dropout`` a label is replaced by ``num_classes``, "no class",
    so that `sample` can guide by the difference that the label makes. Draws are new at each call.

    The network is shared: train the denoiser, sample from the network.

    Args:
        unet: A built `keras.Model` from a list of noisy images, time steps and labels to
            predictions of the images' shape, such as `attention_unet`.
        num_classes: Number of classes: labels are 0 to ``num_classes - 1``.
        schedule: The `NoiseSchedule`. Defaults to ``None``: cosine, 1000 steps, velocity.
        label_dropout: Probability with which a label is left out in training. Defaults to 0.1.
        seed: Of the draws. They are no part of the privacy mechanism. Defaults to ``None``: another
            one each time.
        **kwargs: Of `keras.Model`.

    Call arguments:
        inputs: ``{"images": ..., "labels": ...}`` or ``(images, labels)``: images
            ``(batch, height, width, channels)`` in [-1, 1] (`to_unit_range`), integer labels
            ``(batch,)``.
        training: Whether labels are dropped. Time and noise are drawn always, so that ``evaluate``
            estimates the loss. Defaults to ``False``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, or the network has not three inputs.

    Formal guarantee: none of its own. Row i of the output depends on example i and fresh draws
    alone, so that `tfdp.make_private` of it has the guarantee stated there. With several draws of
    an example (`noise_multiplicity`) the gradient of their mean loss is what is clipped, so that
    more draws cost no privacy (Dockhorn et al. 2023, section 3.2).

    Example:
        >>> import numpy as np, tfdp
        >>> unet = tfdp.synthesis.attention_unet((8, 8, 1), 2, widths=[8], attention=[False])
        >>> denoiser = tfdp.synthesis.Denoiser(unet, 2)
        >>> private = tfdp.make_private(denoiser, **tfdp.synthesis.noise_multiplicity(4))
        >>> private.compile(
        ...     optimizer=tfdp.optimizers.VectorizedDPKerasAdamOptimizer(
        ...         l2_norm_clip=1.0, noise_multiplier=1.0, learning_rate=1e-3),
        ...     loss=tfdp.synthesis.DenoisingLoss())
        >>> images, labels = np.zeros((20, 8, 8, 1), "float32"), np.zeros(20, "int32")
        >>> history = private.fit({"images": images, "labels": labels}, batch_size=10, verbose=0)
        >>> private.ledger.epsilon(delta=1e-3) > 0
        True

    References:
        - Ho et al. 2020, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239, section 3.4.
        - Ho and Salimans 2022, "Classifier-Free Diffusion Guidance", arXiv:2207.12598,
          algorithm 1.
        - Dockhorn et al. 2023, "Differentially Private Diffusion Models", arXiv:2210.09929.
    """

    def __init__(
        self,
        unet: keras.Model,
        num_classes: int,
        schedule: NoiseSchedule | None = None,
        *,
        label_dropout: float = 0.1,
        seed: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.unet = check_unet(unet)
        self.num_classes = _validate.integer("num_classes", num_classes, minimum=1)
        self.schedule = check_schedule(schedule)
        self.label_dropout = _validate.probability("label_dropout", label_dropout)
        self.seed = None if seed is None else _validate.integer("seed", seed, minimum=0)
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        self.built = True

    def call(self, inputs, training=None):
        if isinstance(inputs, dict):
            images, labels = inputs["images"], inputs["labels"]
        else:
            images, labels = inputs
        noisy, time, labels, target = self.draw(images, labels, training=training)
        return self.unet([noisy, time, labels], training=training) - target

    def draw(self, images, labels, training: bool | None = None) -> tuple:
        """Draws time and noise, and drops labels.

        Args:
            images: Shape ``(batch, height, width, channels)``.
            labels: Integers ``(batch,)``.
            training: Whether labels are dropped. Defaults to ``None``: they are not.

        Returns:
            Noisy images, time steps, labels, and what the network is to predict.
        """
        images, labels = ops.cast(images, "float32"), ops.cast(labels, "int32")
        rows, seed = ops.shape(images)[0], self.seed_generator
        time = keras.random.randint((rows,), 0, self.schedule.steps, seed=seed)
        noise = keras.random.normal(ops.shape(images), seed=seed)
        if training and self.label_dropout:
            dropped = keras.random.uniform((rows,), seed=seed) < self.label_dropout
            labels = ops.where(dropped, self.num_classes, labels)
        by_row = (-1, *[1] * (len(images.shape) - 1))
        signal_rate = ops.reshape(ops.take(self.schedule.signal, time), by_row)
        noise_rate = ops.reshape(ops.take(self.schedule.noise, time), by_row)
        noisy = signal_rate * images + noise_rate * noise
        if self.schedule.prediction == "noise":
            return noisy, time, labels, noise
        return noisy, time, labels, signal_rate * noise - noise_rate * images

    def get_config(self) -> dict:
        return {
            "name": self.name,
            "unet": keras.saving.serialize_keras_object(self.unet),
            "num_classes": self.num_classes,
            "schedule": self.schedule.get_config(),
            "label_dropout": self.label_dropout,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> Denoiser:
        unet = keras.saving.deserialize_keras_object(config["unet"], custom_objects=custom_objects)
        schedule = NoiseSchedule(**config["schedule"])
        return cls(**{**config, "unet": unet, "schedule": schedule})


@keras.saving.register_keras_serializable(package="tfdp")
class DenoisingLoss(keras.losses.Loss):
    """The mean square of what a `Denoiser` returns, over all axes but the first.

    There are no targets, as the denoiser draws its own: ``fit({"images": ..., "labels": ...})``.

    Args:
        name: Of the loss. Defaults to ``"denoising_loss"``.
        **kwargs: Of `keras.losses.Loss`: ``reduction`` and ``dtype``.

    References:
        - Ho et al. 2020, arXiv:2006.11239, equation 14, divided by the number of pixels.

    Example:
        >>> import numpy as np
        >>> errors = np.full((2, 28, 28, 1), 0.5, "float32")  # of predicted noise, two images
        >>> float(DenoisingLoss()(None, errors))
        0.25
    """

    def __init__(self, name: str = "denoising_loss", **kwargs: Any):
        super().__init__(name=name, **kwargs)

    def __call__(self, y_true, y_pred, sample_weight=None):
        # Keras makes a tensor of the targets, which is refused where there are none.
        return super().__call__(y_pred, y_pred, sample_weight)

    def call(self, y_true, y_pred):
        del y_true
        return ops.mean(ops.square(y_pred), axis=tuple(range(1, len(y_pred.shape))))


def noise_multiplicity(draws: int) -> dict:
    """Arguments for `tfdp.make_private`: several draws of time and noise for each image.

    Each physical batch holds every example ``draws`` times, and the `Denoiser` draws for each row.

    Args:
        draws: Draws K of time and noise for each example and step.

    Returns:
        ``augmentation`` and ``augmentation_multiplicity``.

    Raises:
        TypeError: If ``draws`` is no integer.
        ValueError: If it is below 1.

    Formal guarantee: the gradient of an example's mean loss over its draws is clipped, so that the
    privacy of a step is that of one draw.

    Example:
        >>> import tfdp
        >>> tfdp.synthesis.noise_multiplicity(4)["augmentation_multiplicity"]
        4

    References:
        - Dockhorn et al. 2023, "Differentially Private Diffusion Models", arXiv:2210.09929,
          section 3.2.
    """
    draws = _validate.integer("draws", draws, minimum=1)
    return {"augmentation": keras.layers.Identity(), "augmentation_multiplicity": draws}


def check_unet(unet: Any) -> keras.Model:
    """Returns the argument ``unet`` if it is a built model with three inputs."""
    if not isinstance(unet, keras.Model):
        raise _validate.type_error("unet", unet, "a keras.Model")
    if not unet.built:
        raise ValueError(f"`unet` must be built. Received: unet={unet.name!r}, not built")
    inputs = getattr(unet, "inputs", None)  # A subclassed model has none.
    if inputs is not None and len(inputs) != 3:
        raise ValueError(
            "`unet` must have three inputs: noisy images, time steps and labels. "
            f"Received: unet={unet.name!r} with {len(inputs)}"
        )
    return unet


def check_schedule(schedule: Any) -> NoiseSchedule:
    """Returns the argument ``schedule``, or the default one for ``None``."""
    if schedule is None:
        return NoiseSchedule()
    if not isinstance(schedule, NoiseSchedule):
        raise _validate.type_error("schedule", schedule, "a NoiseSchedule")
    return schedule
