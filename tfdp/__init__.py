"""Differentially private training of Keras 3 models on TensorFlow."""

from tfdp import (
    accounting,
    auditing,
    callbacks,
    clipping,
    distribution,
    layers,
    lora,
    models,
    noise,
    optimizers,
    saliency,
    sampling,
    simulation,
    statistics,
    synthesis,
    tan,
)
from tfdp.model_checks import replace_batch_normalization
from tfdp.private_model import PrivateModel, make_private
from tfdp.validation import validate

__version__ = "0.1.0"

__all__ = [
    "PrivateModel",
    "accounting",
    "auditing",
    "callbacks",
    "clipping",
    "distribution",
    "layers",
    "lora",
    "make_private",
    "models",
    "noise",
    "optimizers",
    "replace_batch_normalization",
    "saliency",
    "sampling",
    "simulation",
    "statistics",
    "synthesis",
    "tan",
    "validate",
]
