"""Diffusion models for small images: network, training, sampling, and what images are worth."""

from tfdp.synthesis.copies import CopyCheck, closest_pairs, copy_check
from tfdp.synthesis.downstream import DownstreamAccuracy, downstream_accuracy
from tfdp.synthesis.features import (
    FeatureExtractor,
    Features,
    classifier_features,
    inception_features,
    pixel_features,
)
from tfdp.synthesis.fidelity import (
    FrechetDistance,
    PrecisionRecall,
    frechet_distance,
    gaussian_frechet_distance,
    precision_recall,
)
from tfdp.synthesis.images import to_bytes, to_unit_range
from tfdp.synthesis.pictures import grid
from tfdp.synthesis.sampler import sample
from tfdp.synthesis.schedule import NoiseSchedule
from tfdp.synthesis.stable_diffusion import StableDiffusionDenoiser, stable_diffusion_unet
from tfdp.synthesis.training import Denoiser, DenoisingLoss, noise_multiplicity
from tfdp.synthesis.unet import attention_unet

__all__ = [
    "CopyCheck",
    "Denoiser",
    "DenoisingLoss",
    "DownstreamAccuracy",
    "FeatureExtractor",
    "Features",
    "FrechetDistance",
    "NoiseSchedule",
    "PrecisionRecall",
    "StableDiffusionDenoiser",
    "attention_unet",
    "classifier_features",
    "closest_pairs",
    "copy_check",
    "downstream_accuracy",
    "frechet_distance",
    "gaussian_frechet_distance",
    "grid",
    "inception_features",
    "noise_multiplicity",
    "pixel_features",
    "precision_recall",
    "sample",
    "stable_diffusion_unet",
    "to_bytes",
    "to_unit_range",
]
