"""Images from a trained denoising network."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdp import _validate
from tfdp.synthesis.images import to_bytes
from tfdp.synthesis.schedule import NoiseSchedule
from tfdp.synthesis.training import check_schedule, check_unet


def sample(
    unet: keras.Model,
    labels: Any,
    *,
    num_classes: int,
    schedule: NoiseSchedule | None = None,
    steps: int = 25,
    guidance: float = 2.0,
    eta: float = 0.0,
    batch_size: int = 256,
    seed: int | None = None,
    verbose: int = 1,
) -> np.ndarray:
    """Generates an image for each label, by DDIM with classifier-free guidance.

    From pure noise it goes down ``steps`` of the schedule's time steps. At each, the network's
    prediction gives an image, which is clipped to [-1, 1], and the noise that would lead to it;
    the two are put together again with the next step's rates.

    Args:
        unet: The network that a `Denoiser` has trained, or any model of its inputs.
        labels: Integers ``(count,)``, 0 to ``num_classes - 1``, or ``num_classes`` for images of
            no class in particular.
        num_classes: Number of classes, as in the `Denoiser`.
        schedule: The `NoiseSchedule` of training. Defaults to ``None``: cosine, 1000 steps,
            velocity.
        steps: Time steps that are taken, at most those of the schedule. Defaults to 25.
        guidance: The prediction is ``none + guidance * (label - none)`` of the predictions without
            and with the label: 0 leaves the label out, 1 is no guidance, and more makes images more
            typical of their class and less diverse. At 1 the network is run once a step, else
            twice, in one batch. Defaults to 2.
        eta: Share of fresh noise, in [0, 1]: 0 is DDIM, determined by the first noise; 1 is
            DDPM's amount. Defaults to 0.
        batch_size: Images generated at a time. Defaults to 256.
        seed: Of the noise: equal seeds give equal images. Defaults to ``None``: other images each
            time.
        verbose: 0 for silence, 1 for a progress bar. Defaults to 1.

    Returns:
        Images ``(count, height, width, channels)``, uint8.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range.

    Formal guarantee: images are worked out from the network, the labels given and noise alone. They
    are post-processing of the network: its privacy statement holds for any number of them, if the
    labels do not come from private data.

    Example:
        >>> import tfdp
        >>> unet = tfdp.synthesis.attention_unet((8, 8, 1), 2, widths=(8, 8))
        >>> tfdp.synthesis.sample(unet, [0, 1, 1], num_classes=2, steps=2, verbose=0).shape
        (3, 8, 8, 1)

    References:
        - Song et al. 2021, "Denoising Diffusion Implicit Models", arXiv:2010.02502, equations 12
          and 16.
        - Ho and Salimans 2022, "Classifier-Free Diffusion Guidance", arXiv:2207.12598, whose w is
          ``guidance - 1``.
    """
    check_unet(unet)
    num_classes = _validate.integer("num_classes", num_classes, minimum=1)
    labels = _checked_labels(labels, num_classes)
    schedule = check_schedule(schedule)
    steps = _validate.integer("steps", steps, minimum=1, maximum=schedule.steps)
    guidance = _validate.non_negative("guidance", guidance)
    eta = _validate.probability("eta", eta)
    batch_size = _validate.integer("batch_size", batch_size, minimum=1)
    seed = None if seed is None else _validate.integer("seed", seed, minimum=0)
    verbose = _validate.one_of("verbose", verbose, (0, 1))

    shape = tuple(unet.output_shape[1:])
    generator = keras.random.SeedGenerator(seed)
    times = np.rint(np.linspace(schedule.steps - 1, 0, steps)).astype("int32")
    variance = schedule.signal_variance[times]
    next_variance = np.append(variance[1:], 1.0)
    fresh = eta * np.sqrt((1 - next_variance) / (1 - variance) * (1 - variance / next_variance))
    rates = np.stack(
        [
            np.sqrt(variance),
            np.sqrt(1 - variance),
            np.sqrt(next_variance),
            np.sqrt(np.maximum(1 - next_variance - fresh**2, 0)),
            fresh,
        ],
        axis=1,
    ).astype("float32")

    def predict(x, time, labels):
        time = tf.fill(tf.shape(labels), tf.cast(time, "float32"))
        if guidance == 1:
            return tf.cast(unet([x, time, labels], training=False), "float32")
        no_class = tf.fill(tf.shape(labels), num_classes)
        both = [tf.concat(pair, 0) for pair in ((x, x), (time, time), (labels, no_class))]
        with_label, without = tf.split(tf.cast(unet(both, training=False), "float32"), 2)
        return without + guidance * (with_label - without)

    @tf.function(autograph=False, reduce_retracing=True)
    def step(x, labels, time, rates):
        signal_rate, noise_rate, next_signal, next_noise, fresh_rate = tf.unstack(rates)
        prediction = predict(x, time, labels)
        if schedule.prediction == "noise":
            image = (x - noise_rate * prediction) / signal_rate
        else:
            image = signal_rate * x - noise_rate * prediction
        image = tf.clip_by_value(image, -1.0, 1.0)
        noise = (x - signal_rate * image) / noise_rate
        x = next_signal * image + next_noise * noise
        if eta:
            x += fresh_rate * keras.random.normal(tf.shape(x), seed=generator)
        return x

    images = []
    starts = range(0, len(labels), batch_size)
    progress = keras.utils.Progbar(len(starts) * steps, verbose=verbose, unit_name="step")
    for start in starts:
        batch = tf.constant(labels[start : start + batch_size])
        x = keras.random.normal((len(batch), *shape), seed=generator)
        for time, row in zip(times, rates, strict=True):
            x = step(x, batch, tf.constant(time), tf.constant(row))
            progress.add(1)
        images.append(to_bytes(x.numpy()))
    return np.concatenate(images)


def _checked_labels(labels: Any, num_classes: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise _validate.type_error("labels", labels, "a vector of integers")
    if not len(labels) or labels.min() < 0 or labels.max() > num_classes:
        raise _validate.value_error("labels", labels, f"one or more of 0 to {num_classes}")
    return labels.astype("int32")
