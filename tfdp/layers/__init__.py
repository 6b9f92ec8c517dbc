"""Keras layers that suit training under a clipped gradient. They know nothing of privacy."""

from tfdp.layers.tempered_sigmoid import TemperedSigmoid, tempered_sigmoid

__all__ = ["TemperedSigmoid", "tempered_sigmoid"]
