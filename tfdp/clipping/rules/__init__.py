"""One short file of rules per layer family; importing this package registers them all."""

from tfdp.clipping.rules import convolution, dense, embedding, normalization, per_feature

__all__ = ["convolution", "dense", "embedding", "normalization", "per_feature"]
