"""Real images of digits, from scikit-learn, as bytes of 16 x 16 pixels."""

import numpy as np
from sklearn.datasets import load_digits


def digits() -> tuple[np.ndarray, np.ndarray]:
    """1,797 images in random order, and their classes."""
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    images = bunch.images[order].repeat(2, axis=1).repeat(2, axis=2)
    return np.rint(images / 16 * 255).astype("uint8"), bunch.target[order]
