"""Evaluation of synthetic images, and Stable Diffusion."""

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
from tfdp.synthesis.pictures import grid
from tfdp.synthesis.stable_diffusion import StableDiffusionDenoiser, stable_diffusion_unet

__all__ = [
    "CopyCheck",
    "DownstreamAccuracy",
    "FeatureExtractor",
    "Features",
    "FrechetDistance",
    "PrecisionRecall",
    "StableDiffusionDenoiser",
    "classifier_features",
    "closest_pairs",
    "copy_check",
    "downstream_accuracy",
    "frechet_distance",
    "gaussian_frechet_distance",
    "grid",
    "inception_features",
    "pixel_features",
    "precision_recall",
    "stable_diffusion_unet",
]
