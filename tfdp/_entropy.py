"""Randomness from the operating system, which everything that protects privacy starts from."""

from __future__ import annotations

import secrets

import numpy as np
import tensorflow as tf


def signed_64_bits() -> int:
    """A uniform number of 64 random bits, as an int64 holds it."""
    return secrets.randbits(64) - 2**63


def fresh_seed() -> tuple[int, int]:
    """A seed of 128 random bits, for TensorFlow's stateless functions."""
    return signed_64_bits(), signed_64_bits()


def random_words(count: int) -> np.ndarray:
    """Uniform 32-bit words ``(count,)``, each bit of them from the operating system's generator."""
    return np.frombuffer(secrets.token_bytes(4 * count), np.uint32)


def fresh_numpy_generator() -> np.random.Generator:
    """A generator of NumPy that starts from 128 random bits."""
    return np.random.default_rng([bits + 2**63 for bits in fresh_seed()])


def fresh_generator() -> tf.random.Generator:
    """A Philox generator whose key and counter are random."""
    return tf.random.Generator.from_state([signed_64_bits() for _ in range(3)], alg="philox")
