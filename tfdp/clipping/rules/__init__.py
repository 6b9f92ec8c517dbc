"""One short file of rules per layer family; importing this package registers them all."""

from tfdp.clipping.rules import (
    convolution,
    dense,
    depthwise,
    einsum_dense,
    embedding,
    fallback,
    normalization,
    per_feature,
    transposed,
)

__all__ = [
    "convolution",
    "dense",
    "depthwise",
    "einsum_dense",
    "embedding",
    "fallback",
    "normalization",
    "per_feature",
    "transposed",
]
