"""How near synthetic images are to real ones, as two sets of features."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from scipy import linalg
from sklearn.metrics import pairwise_distances_chunked
from sklearn.neighbors import NearestNeighbors

from tfdp import _validate
from tfdp.synthesis.features import Features, check_comparable

#: Eigenvalues of a covariance above minus this, as a share of the largest, are rounding errors.
ROUNDING = 1e-8


@dataclasses.dataclass(frozen=True)
class FrechetDistance:
    """The result of `frechet_distance`.

    Attributes:
        distance: The squared distance, 0 or above; less is better.
        extractor: Name of the features.
        dimension: Numbers to an image.
        real: Number of real images.
        synthetic: Number of synthetic images.

    Example:
        >>> import numpy as np, tfdp
        >>> values = np.random.default_rng(0).normal(size=(500, 2))
        >>> real = tfdp.synthesis.Features("two numbers", values)
        >>> moved = tfdp.synthesis.Features("two numbers", values + [2.0, 0.0])
        >>> print(frechet_distance(real, moved))
        Fréchet distance 4 (500 synthetic images to 500 real ones, 2 features: two numbers)
    """

    distance: float
    extractor: str
    dimension: int
    real: int
    synthetic: int

    def __str__(self) -> str:
        return (
            f"Fréchet distance {self.distance:.4g} ({self.synthetic} synthetic images to "
            f"{self.real} real ones, {self.dimension} features: {self.extractor})"
        )

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def frechet_distance(real: Features, synthetic: Features) -> FrechetDistance:
    """The Fréchet distance between Gaussians with the means and covariances of two feature sets.

    With Inception features it is the FID. It falls as images get more, at equal quality: compare
    figures of the same extractor at the same numbers of images.

    Args:
        real: Features of real images, more than their dimension.
        synthetic: Features of synthetic images from the same extractor, more than their dimension.

    Returns:
        A `FrechetDistance`.

    Raises:
        TypeError: If an argument is no `Features`.
        ValueError: If the features differ in extractor or dimension, or the images are too few to
            estimate a covariance: not more than the dimension.

    Formal guarantee: none. The figure depends on the real images; where these are private, the
    figure is not protected.

    References:
        - Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule Converge to a Local
          Nash Equilibrium", arXiv:1706.08500, equation 6.
        - Chong and Forsyth 2020, "Effectively Unbiased FID and Inception Score", arXiv:1911.07023:
          its bias for few images.

    Example:
        >>> import numpy as np, tfdp
        >>> random = np.random.default_rng(0)
        >>> real, synthetic = (
        ...     tfdp.synthesis.Features("mine", random.normal(size=(500, 2)) + shift)
        ...     for shift in (0.0, 3.0))
        >>> 17 < tfdp.synthesis.frechet_distance(real, synthetic).distance < 19
        True
    """
    check_comparable(real=real, synthetic=synthetic)
    for name, features in (("real", real), ("synthetic", synthetic)):
        if len(features) <= features.dimension:
            raise _validate.value_error(
                name,
                f"{len(features)} images",
                f"more images than the {features.dimension} features of an image",
            )
    moments = [
        (features.values.mean(axis=0), np.atleast_2d(np.cov(features.values, rowvar=False)))
        for features in (real, synthetic)
    ]
    return FrechetDistance(
        distance=gaussian_frechet_distance(*moments[0], *moments[1]),
        extractor=real.extractor,
        dimension=real.dimension,
        real=len(real),
        synthetic=len(synthetic),
    )


def gaussian_frechet_distance(
    mean_1: np.ndarray, covariance_1: np.ndarray, mean_2: np.ndarray, covariance_2: np.ndarray
) -> float:
    """``|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))``, in float64.

    The trace of the root is the sum of the singular values of ``C1^(1/2) C2^(1/2)``, with roots of
    symmetric matrices from their eigenvalues: real for singular covariances too.

    Args:
        mean_1: Shape ``(dimension,)``.
        covariance_1: Shape ``(dimension, dimension)``, symmetric, positive semi-definite.
        mean_2: As ``mean_1``.
        covariance_2: As ``covariance_1``.

    Returns:
        The squared distance; a negative rounding error counts as 0.

    Raises:
        TypeError: If an argument is no array of numbers.
        ValueError: If shapes do not fit, numbers are not finite, or a covariance is not symmetric
            and positive semi-definite.

    References:
        - Dowson and Landau 1982, "The Fréchet distance between multivariate normal distributions".

    Example:
        >>> import numpy as np, tfdp
        >>> tfdp.synthesis.gaussian_frechet_distance(
        ...     np.zeros(2), np.eye(2), np.array([3.0, 4.0]), np.eye(2))
        25.0
    """
    mean_1 = _numbers("mean_1", mean_1)
    if mean_1.ndim != 1 or not mean_1.size:
        raise _validate.value_error("mean_1", mean_1.shape, "of shape (dimension,)")
    size = len(mean_1)
    mean_2 = _numbers("mean_2", mean_2)
    if mean_2.shape != (size,):
        raise _validate.value_error("mean_2", mean_2.shape, f"of shape ({size},), as `mean_1`")
    root_1, trace_1 = _root_and_trace("covariance_1", covariance_1, size)
    root_2, trace_2 = _root_and_trace("covariance_2", covariance_2, size)
    trace_of_root = linalg.svdvals(root_1 @ root_2).sum()
    distance = np.sum((mean_1 - mean_2) ** 2) + trace_1 + trace_2 - 2 * trace_of_root
    return max(0.0, float(distance))


@dataclasses.dataclass(frozen=True)
class PrecisionRecall:
    """The result of `precision_recall`.

    Attributes:
        precision: Share of synthetic images among the real ones; how real they look.
        recall: Share of real images among the synthetic ones; how much is covered.
        neighbors: The k of the neighbourhoods.
        extractor: Name of the features.
        real: Number of real images.
        synthetic: Number of synthetic images.

    Example:
        >>> import numpy as np, tfdp
        >>> values = np.random.default_rng(0).normal(size=(500, 2))
        >>> real = tfdp.synthesis.Features("two numbers", values)
        >>> a_part = tfdp.synthesis.Features("two numbers", values[values[:, 0] > 0])
        >>> found = precision_recall(real, a_part)
        >>> found.precision, found.recall < 0.7
        (1.0, True)
    """

    precision: float
    recall: float
    neighbors: int
    extractor: str
    real: int
    synthetic: int

    def __str__(self) -> str:
        return (
            f"precision {self.precision:.3f}, recall {self.recall:.3f} (k={self.neighbors}, "
            f"{self.synthetic} synthetic images, {self.real} real ones: {self.extractor})"
        )

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def precision_recall(real: Features, synthetic: Features, neighbors: int = 3) -> PrecisionRecall:
    """Improved precision and recall: fidelity and coverage, apart.

    An image counts as among a set if it is no farther from some image of the set than that image
    is from its k-th nearest neighbour in the set.

    Args:
        real: Features of real images, more than ``neighbors``.
        synthetic: Features of synthetic images from the same extractor, more than ``neighbors``.
        neighbors: The k, 1 or above. Defaults to 3.

    Returns:
        A `PrecisionRecall`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the features differ in extractor or dimension, or the images are too few.

    Formal guarantee: none. The figures depend on the real images; where these are private, the
    figures are not protected.

    References:
        - Kynkäänniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative
          Models", arXiv:1904.06991, equations 1 and 2.

    Example:
        >>> import numpy as np, tfdp
        >>> points = np.random.default_rng(0).normal(size=(50, 2))
        >>> same = tfdp.synthesis.Features("mine", points)
        >>> far = tfdp.synthesis.Features("mine", points + 100)
        >>> tfdp.synthesis.precision_recall(same, same).precision
        1.0
        >>> tfdp.synthesis.precision_recall(same, far).recall
        0.0
    """
    check_comparable(real=real, synthetic=synthetic)
    neighbors = _validate.integer("neighbors", neighbors, minimum=1)
    if neighbors >= min(len(real), len(synthetic)):
        raise _validate.value_error(
            "neighbors",
            neighbors,
            f"below the number of images, {len(real)} real and {len(synthetic)} synthetic ones",
        )
    return PrecisionRecall(
        precision=_share_among(synthetic.values, real.values, neighbors),
        recall=_share_among(real.values, synthetic.values, neighbors),
        neighbors=neighbors,
        extractor=real.extractor,
        real=len(real),
        synthetic=len(synthetic),
    )


def _share_among(points: np.ndarray, others: np.ndarray, neighbors: int) -> float:
    """The share of ``points`` in the union of balls around ``others`` to their k-th neighbours."""
    distances, _ = NearestNeighbors(n_neighbors=neighbors).fit(others).kneighbors()
    radii = distances[:, -1]
    inside = [(chunk <= radii).any(axis=1) for chunk in pairwise_distances_chunked(points, others)]
    return float(np.concatenate(inside).mean())


def _root_and_trace(name: str, covariance: Any, size: int) -> tuple[np.ndarray, float]:
    """The square root of a symmetric positive semi-definite matrix, and the matrix's trace."""
    covariance = _numbers(name, covariance)
    if covariance.shape != (size, size):
        raise _validate.value_error(name, covariance.shape, f"of shape ({size}, {size})")
    if np.abs(covariance - covariance.T).max() > ROUNDING * np.abs(covariance).max():
        raise _validate.value_error(name, covariance, "symmetric")
    values, vectors = linalg.eigh(covariance)
    if values[0] < -ROUNDING * max(values[-1], 0.0):
        raise _validate.value_error(
            name, f"a smallest eigenvalue of {values[0]:.3g}", "positive semi-definite"
        )
    values = np.maximum(values, 0.0)
    return (vectors * np.sqrt(values)) @ vectors.T, values.sum()


def _numbers(name: str, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value, "float64")
    except (TypeError, ValueError):
        raise _validate.type_error(name, value, "an array of numbers") from None
    if not np.isfinite(array).all():
        raise _validate.value_error(name, value, "finite")
    return array
