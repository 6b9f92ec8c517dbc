"""Private fine-tuning of keras-cv's Stable Diffusion network."""

from __future__ import annotations

import math
import os
from typing import Any

import keras
import numpy as np
from keras import ops

from tfdp import _validate
from tfdp.model_checks import has_layer_graph

#: Time steps of the diffusion.
STEPS = 1000
#: The network works on latents of 1/8 of the image's size and halves these three times.
SIDE_MULTIPLE = 64
_INPUTS = ["latent", "timestep_embedding", "context"]


def stable_diffusion_unet(
    image_height: int = 512,
    image_width: int = 512,
    text_length: int = 77,
    weights: str | None = None,
) -> keras.Model:
    """keras-cv's denoising network of Stable Diffusion 1, about 860 million weights.

    It takes some 3.5 GB of memory to build, and keras-cv to be installed. Nothing is downloaded.

    Args:
        image_height: Height of images in pixels, a multiple of 64. Defaults to 512.
        image_width: Width of images. Defaults to 512.
        text_length: Tokens of a prompt. Defaults to 77.
        weights: File of the network's weights, ``kcv_diffusion_model.h5`` of keras-cv. Defaults to
            ``None``: random ones.

    Returns:
        A `keras.Model` with the inputs ``latent`` (batch, height / 8, width / 8, 4),
        ``timestep_embedding`` (batch, 320) and ``context`` (batch, text_length, 768), to the noise
        in the latents.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, or there is no such file.
        ImportError: If keras-cv is not installed.

    Example:
        For images of 256 pixels, with weights that were downloaded before::

            unet = tfdp.synthesis.stable_diffusion_unet(256, 256, weights="kcv_diffusion_model.h5")
            denoiser = tfdp.synthesis.StableDiffusionDenoiser(unet)

    References:
        - Rombach et al. 2022, "High-Resolution Image Synthesis with Latent Diffusion Models",
          arXiv:2112.10752.
    """
    for name, side in (("image_height", image_height), ("image_width", image_width)):
        if _validate.integer(name, side, minimum=1) % SIDE_MULTIPLE:
            raise _validate.value_error(name, side, f"a multiple of {SIDE_MULTIPLE}")
    text_length = _validate.integer("text_length", text_length, minimum=1)
    if weights is not None:
        weights = _validate.path("weights", weights)
        if not os.path.isfile(weights):
            raise _validate.value_error("weights", weights, "the path of a file")
    try:
        from keras_cv.models.stable_diffusion import DiffusionModel  # Heavy, and needed here alone.
    except ImportError as error:
        raise ImportError(
            "Stable Diffusion's network comes from keras-cv: `pip install keras-cv`."
        ) from error
    unet = DiffusionModel(image_height, image_width, text_length, download_weights=False)
    if weights is not None:
        unet.load_weights(weights)
    return unet


class StableDiffusionDenoiser(keras.Model):
    """Draws a time step and noise for each latent, and returns by how much the network misses it.

    For row i, independently of all others, it draws a time step t, uniformly from 0 to 999, and
    Gaussian noise; the network sees ``sqrt(a_t) * latent + sqrt(1 - a_t) * noise`` with the
    embeddings of t and of the prompt, and its prediction minus the noise is returned. Against
    zeros, ``"mse"`` is then the loss that Stable Diffusion is trained with. Draws are new at each
    call. The betas grow from 0.00085 to 0.012, linear in their roots, as in the public model.

    The network is shared: train the denoiser, sample with `keras_cv.models.StableDiffusion`. Keep
    weights with ``save_weights``: keras-cv's blocks cannot be made again from a ``.keras`` file.

    Args:
        unet: A built `keras.Model` with the inputs of `stable_diffusion_unet`, in their order.
        seed: Of the draws. They are no part of the privacy mechanism. Defaults to ``None``:
            another one each time.
        **kwargs: Of `keras.Model`.

    Call arguments:
        inputs: ``{"latents": ..., "context": ...}``: latents ``(batch, height / 8, width / 8, 4)``
            as keras-cv's ``image_encoder`` makes them of images in [-1, 1], and the
            ``text_encoder``'s embeddings of prompts, ``(batch, text_length, 768)``.
        training: Passed on to the network. Defaults to ``None``.

    Returns:
        Predicted minus drawn noise, shape of the latents.

    Raises:
        TypeError: If ``unet`` is not a functional Keras model, or ``seed`` no integer.
        ValueError: If ``unet`` has other inputs, or ``seed`` is negative.

    Formal guarantee: none of its own. Row i of the output depends on example i and fresh draws
    alone, so that `tfdp.make_private` of it has the guarantee stated there. The encoders and the
    network's first weights must come from public data: what they were trained on is not protected.

    Example:
        Only the query, key, value and output projections of cross-attention are tuned, by LoRA::

            unet = tfdp.synthesis.stable_diffusion_unet(256, 256, weights=path)
            for variable in unet.variables:
                variable.trainable = False
            for layer in unet._flatten_layers():
                if type(layer).__name__ == "CrossAttention":
                    for dense in (layer.to_q, layer.to_k, layer.to_v, layer.out_proj):
                        dense.enable_lora(rank=4)
            private = tfdp.make_private(
                tfdp.synthesis.StableDiffusionDenoiser(unet), physical_batch_size=1)

    References:
        - Ho et al. 2020, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239,
          equation 14.
        - Rombach et al. 2022, arXiv:2112.10752, section 3.2, and the configuration of the public
          model: the betas.
    """

    def __init__(self, unet: keras.Model, *, seed: int | None = None, **kwargs: Any):
        if not isinstance(unet, keras.Model) or not has_layer_graph(unet) or not unet.built:
            raise _validate.type_error("unet", unet, "a built functional keras.Model")
        names = [tensor.name for tensor in unet.inputs]
        if names != _INPUTS:
            raise _validate.value_error("unet", names, f"a model with the inputs {_INPUTS}")
        super().__init__(**kwargs)
        self.unet = unet
        self.seed = None if seed is None else _validate.integer("seed", seed, minimum=0)
        self.seed_generator = keras.random.SeedGenerator(self.seed)
        self.built = True

    def call(self, inputs, training=None):
        latents = ops.cast(inputs["latents"], "float32")
        rows, seed = ops.shape(latents)[0], self.seed_generator
        time = keras.random.randint((rows,), 0, STEPS, seed=seed)
        noise = keras.random.normal(ops.shape(latents), seed=seed)
        share = ops.reshape(ops.take(signal_variance(), time), (-1, 1, 1, 1))
        noisy = ops.sqrt(share) * latents + ops.sqrt(1 - share) * noise
        size = self.unet.inputs[1].shape[-1]
        predicted = self.unet(
            {
                "latent": noisy,
                "timestep_embedding": time_embedding(time, size),
                "context": inputs["context"],
            },
            training=training,
        )
        return ops.cast(predicted, "float32") - noise


def signal_variance() -> np.ndarray:
    """The share of the latent in the variance at each time step, float32 ``(1000,)``."""
    betas = np.linspace(math.sqrt(0.00085), math.sqrt(0.012), STEPS) ** 2
    return np.cumprod(1 - betas).astype("float32")


def time_embedding(time: Any, size: int) -> Any:
    """Cosines, then sines, of time steps at frequencies from 1 down to about 1/10000.

    Args:
        time: Integers ``(batch,)``.
        size: Numbers to a time step, even.

    Returns:
        Shape ``(batch, size)``, float32.
    """
    half = size // 2
    frequencies = np.exp(-math.log(10_000) * np.arange(half) / half).astype("float32")
    angles = ops.cast(time, "float32")[:, None] * frequencies
    return ops.concatenate([ops.cos(angles), ops.sin(angles)], axis=-1)
