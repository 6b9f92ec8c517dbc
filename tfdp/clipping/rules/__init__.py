"""One short file of rules per layer family; importing this package registers them all."""

from tfdp.clipping.rules import convolution, dense

__all__ = ["convolution", "dense"]
