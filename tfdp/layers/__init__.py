"""Keras layers that suit training under a clipped gradient. They know nothing of privacy."""

from tfdp.layers.position_embedding import PositionEmbedding
from tfdp.layers.random_apply import RandomApply
from tfdp.layers.random_shift import RandomShift
from tfdp.layers.skip_init import SkipInit
from tfdp.layers.standardized_conv2d import WeightStandardizedConv2D
from tfdp.layers.tempered_sigmoid import TemperedSigmoid, tempered_sigmoid

__all__ = [
    "PositionEmbedding",
    "RandomApply",
    "RandomShift",
    "SkipInit",
    "TemperedSigmoid",
    "WeightStandardizedConv2D",
    "tempered_sigmoid",
]
