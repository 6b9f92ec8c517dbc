"""Noise: where the randomness comes from, what its law is, and how it is scaled."""

from tfdp.noise.discrete_gaussian import DiscreteGaussianNoise
from tfdp.noise.gaussian import GaussianNoise

__all__ = ["DiscreteGaussianNoise", "GaussianNoise"]
