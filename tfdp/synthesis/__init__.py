"""Diffusion models for small images: network, training, sampling."""

from tfdp.synthesis.images import to_bytes, to_unit_range
from tfdp.synthesis.sampler import sample
from tfdp.synthesis.schedule import NoiseSchedule
from tfdp.synthesis.training import Denoiser, DenoisingLoss, noise_multiplicity
from tfdp.synthesis.unet import attention_unet

__all__ = [
    "Denoiser",
    "DenoisingLoss",
    "NoiseSchedule",
    "attention_unet",
    "noise_multiplicity",
    "sample",
    "to_bytes",
    "to_unit_range",
]
