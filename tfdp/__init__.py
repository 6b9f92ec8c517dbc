"""Differentially private training of Keras 3 models on TensorFlow."""

from tfdp import (
    accounting,
    callbacks,
    clipping,
    distribution,
    layers,
    models,
    noise,
    optimizers,
    sampling,
    simulation,
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
    "callbacks",
    "clipping",
    "distribution",
    "layers",
    "make_private",
    "models",
    "noise",
    "optimizers",
    "replace_batch_normalization",
    "sampling",
    "simulation",
    "synthesis",
    "tan",
    "validate",
]
