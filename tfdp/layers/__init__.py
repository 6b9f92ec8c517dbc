"""Keras layers that suit training under a clipped gradient. They know nothing of privacy."""

from tfdp.layers.deslant2d import Deslant2D
from tfdp.layers.patch_features2d import PatchFeatures2D
from tfdp.layers.position_embedding import PositionEmbedding
from tfdp.layers.principal_scaling import PrincipalScaling
from tfdp.layers.random_apply import RandomApply
from tfdp.layers.random_shift import RandomShift
from tfdp.layers.scattering2d import Scattering2D
from tfdp.layers.skip_init import SkipInit
from tfdp.layers.standardized_conv2d import WeightStandardizedConv2D
from tfdp.layers.tempered_sigmoid import TemperedSigmoid, tempered_sigmoid

__all__ = [
    "Deslant2D",
    "PatchFeatures2D",
    "PositionEmbedding",
    "PrincipalScaling",
    "RandomApply",
    "RandomShift",
    "Scattering2D",
    "SkipInit",
    "TemperedSigmoid",
    "WeightStandardizedConv2D",
    "tempered_sigmoid",
]
