"""One short file of rules per layer family; importing this package registers them all."""

from tfdp.clipping.rules import (
    broadcast,
    convolution,
    dense,
    depthwise,
    einsum_dense,
    embedding,
    fallback,
    normalization,
    per_feature,
    standardized_convolution,
    transposed,
)

__all__ = [
    "broadcast",
    "convolution",
    "dense",
    "depthwise",
    "einsum_dense",
    "embedding",
    "fallback",
    "normalization",
    "per_feature",
    "standardized_convolution",
    "transposed",
]
