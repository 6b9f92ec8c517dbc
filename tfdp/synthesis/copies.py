"""Whether synthetic images are copies of training images: checks against held-out images.

What they prove, and what not: a generator that never saw the training images passes, up to chance,
and one that copies many of them fails. One that passes may still have copied a few, or have leaked
what these distances do not see. Passing is no bound on any attack and no DP guarantee; the
guarantee is the statement of the run that trained the generator.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats
from sklearn.neighbors import NearestNeighbors

from tfdp import _validate
from tfdp.synthesis.features import Features, check_comparable
from tfdp.synthesis.pictures import as_images, draw_rows

#: The share of held-out images that the strict membership test takes for training images.
FALSE_POSITIVES = 0.01


@dataclasses.dataclass(frozen=True)
class CopyCheck:
    """The result of `copy_check`.

    Attributes:
        closer_to_training: Share of synthetic images whose nearest real image is a training image;
            exact ties count for both, half each.
        expected: The share of training images among all real ones, which the former is near if
            synthetic images owe nothing to single training images.
        p_value: Of the permutation test that they owe nothing, one-sided.
        distance_to_training: Median distance of synthetic images to their nearest training image.
        distance_to_held_out: The same to held-out images; comparable if these are as many.
        auc: Of membership inference by distance to the nearest synthetic image: 0.5 is chance, 1
            is certainty.
        auc_low: Lower end of its bootstrap interval.
        auc_high: Upper end.
        detected: Share of training images that are nearer to a synthetic image than 99% of the
            held-out images are.
        confidence: Of the interval.
        extractor: Name of the features.
        synthetic: Number of synthetic images.
        training: Number of training images.
        held_out: Number of held-out images.

    Example:
        >>> import numpy as np, tfdp
        >>> extractor = tfdp.synthesis.pixel_features((4, 4, 1))
        >>> training, held_out = map(extractor, np.random.default_rng(0).random((2, 40, 4, 4, 1)))
        >>> check = copy_check(training, training, held_out)  # All are copies.
        >>> check.closer_to_training, check.distance_to_training, check.detected
        (1.0, 0.0, 1.0)
    """

    closer_to_training: float
    expected: float
    p_value: float
    distance_to_training: float
    distance_to_held_out: float
    auc: float
    auc_low: float
    auc_high: float
    detected: float
    confidence: float
    extractor: str
    synthetic: int
    training: int
    held_out: int

    def __str__(self) -> str:
        return (
            f"copy check of {self.synthetic} synthetic images against {self.training} training and "
            f"{self.held_out} held-out images, features: {self.extractor}\n"
            f"  nearest real image is a training image: {self.closer_to_training:.3f} "
            f"(expected {self.expected:.3f}, p={self.p_value:.3g})\n"
            f"  median distance to training {self.distance_to_training:.4g}, "
            f"to held-out {self.distance_to_held_out:.4g}\n"
            f"  membership inference: AUC {self.auc:.3f} "
            f"({self.confidence:.0%} interval {self.auc_low:.3f} to {self.auc_high:.3f}), "
            f"{self.detected:.3f} detected at {FALSE_POSITIVES:.0%} false positives\n"
            "  This is no privacy guarantee."
        )

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def copy_check(
    synthetic: Features,
    training: Features,
    held_out: Features,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> CopyCheck:
    """Compares synthetic images with the images a generator was trained on and with others.

    Training and held-out images must be samples of one distribution, drawn apart at random: any
    other difference between them shows up like copying.

    Two questions are asked. From a synthetic image: is its nearest real image one of the training
    images more often than by their share? The test counts, for each real image, the synthetic
    images it is nearest to, and permutes which real images were trained on (`scipy.stats
    .permutation_test`); it allows for sets of different sizes and for synthetic images that
    resemble each other. From a real image: does its distance to the nearest synthetic image tell
    whether it was trained on? That is the area under the ROC curve, with a percentile bootstrap
    interval over real images, for the synthetic images as they are.

    Args:
        synthetic: Features of synthetic images.
        training: Features of images that the generator was trained on, from the same extractor.
        held_out: Features of real images that it was not trained on, two or more.
        resamples: Permutations, and bootstrap samples. Defaults to 1000: the smallest p-value is
            then about 0.001.
        confidence: Of the interval. Defaults to 0.95.
        seed: Of both. Defaults to 0.

    Returns:
        A `CopyCheck`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the features differ in extractor or dimension, there are fewer than two
            training or held-out images, or a number is out of range.

    Formal guarantee: none, and none can be read from the result. A low p-value or an interval
    above 0.5 shows that training images leave traces; the reverse does not show that none do, in
    particular where few images were copied. The figures themselves are not protected.

    References:
        - Chen et al. 2020, "GAN-Leaks: A Taxonomy of Membership Inference Attacks against
          Generative Models", arXiv:1909.03935, section 4.2: the attack with samples only.
        - Carlini et al. 2022, "Membership Inference Attacks From First Principles",
          arXiv:2112.03570: why detection at few false positives says more than the area.

    Example:
        >>> import numpy as np, tfdp
        >>> random = np.random.default_rng(0)
        >>> training, held_out = (
        ...     tfdp.synthesis.Features("mine", random.normal(size=(50, 4))) for _ in range(2))
        >>> check = tfdp.synthesis.copy_check(training, training, held_out, resamples=100)
        >>> check.closer_to_training, check.auc  # Every synthetic image is a copy.
        (1.0, 1.0)
    """
    check_comparable(synthetic=synthetic, training=training, held_out=held_out)
    for name, features in (("training", training), ("held_out", held_out)):
        if len(features) < 2:
            raise _validate.value_error(name, f"{len(features)} images", "two images or more")
    resamples = _validate.integer("resamples", resamples, minimum=1)
    confidence = _validate.delta("confidence", confidence)
    seed = _validate.integer("seed", seed, minimum=0)

    random = np.random.default_rng(seed)
    to_training, nearest_training = _nearest(synthetic, training)
    to_held_out, nearest_held_out = _nearest(synthetic, held_out)
    weight = np.where(to_training == to_held_out, 0.5, to_training < to_held_out)
    nearest_to = (
        np.bincount(nearest_training, weight, minlength=len(training)),
        np.bincount(nearest_held_out, 1 - weight, minlength=len(held_out)),
    )
    batch = max(1, 10_000_000 // (len(training) + len(held_out)))  # To bound memory.
    test = stats.permutation_test(
        nearest_to,
        _difference_of_means,
        vectorized=True,
        n_resamples=resamples,
        batch=batch,
        alternative="greater",
        random_state=random,
    )
    members, others = -_nearest(training, synthetic)[0], -_nearest(held_out, synthetic)[0]
    threshold = np.quantile(others, 1 - FALSE_POSITIVES, method="higher")
    interval = stats.bootstrap(
        (members, others),
        _auc,
        vectorized=True,
        n_resamples=resamples,
        batch=batch,
        confidence_level=confidence,
        method="percentile",
        random_state=random,
    ).confidence_interval
    return CopyCheck(
        closer_to_training=float(weight.mean()),
        expected=len(training) / (len(training) + len(held_out)),
        p_value=float(test.pvalue),
        distance_to_training=float(np.median(to_training)),
        distance_to_held_out=float(np.median(to_held_out)),
        auc=float(_auc(members, others)),
        auc_low=float(interval.low),
        auc_high=float(interval.high),
        detected=float(np.mean(members > threshold)),
        confidence=confidence,
        extractor=synthetic.extractor,
        synthetic=len(synthetic),
        training=len(training),
        held_out=len(held_out),
    )


def closest_pairs(
    synthetic: Features,
    training: Features,
    synthetic_images: Any,
    training_images: Any,
    pairs: int = 10,
) -> Figure:
    """Draws the synthetic images that are nearest to a training image, above that image.

    Args:
        synthetic: Features of the synthetic images.
        training: Features of the training images, from the same extractor.
        synthetic_images: The images, shape ``(images, height, width, channels)``; uint8, or floats
            in [0, 1].
        training_images: The same of the training images.
        pairs: How many. Defaults to 10; fewer if there are fewer synthetic images.

    Returns:
        A matplotlib `Figure` with the distances; it shows training images, so it is private.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the features differ in extractor, or images and features in number.

    Example:
        >>> import numpy as np, tfdp
        >>> images = np.random.default_rng(0).random((20, 28, 28, 1))
        >>> features = tfdp.synthesis.Features("pixels", images.reshape(20, -1))
        >>> figure = tfdp.synthesis.closest_pairs(features, features, images, images, pairs=5)
        >>> len(figure.axes)
        10
    """
    check_comparable(synthetic=synthetic, training=training)
    synthetic_images = as_images("synthetic_images", synthetic_images)
    training_images = as_images("training_images", training_images)
    for name, images, features in (
        ("synthetic_images", synthetic_images, synthetic),
        ("training_images", training_images, training),
    ):
        if len(images) != len(features):
            raise _validate.value_error(
                name, f"{len(images)} images", f"as many as their features, {len(features)}"
            )
    pairs = min(_validate.integer("pairs", pairs, minimum=1), len(synthetic))
    distances, nearest = _nearest(synthetic, training)
    order = np.argsort(distances, kind="stable")[:pairs]
    figure = draw_rows(
        [synthetic_images[order], training_images[nearest[order]]],
        ["synthetic", "training"],
        columns=pairs,
    )
    for axes, distance in zip(figure.axes, distances[order], strict=False):  # The upper row.
        axes.set_title(f"{distance:.3g}", fontsize="small")
    return figure


def _nearest(points: Features, others: Features) -> tuple[np.ndarray, np.ndarray]:
    """Distance to, and index of, the nearest of ``others`` for each of ``points``."""
    distances, indices = (
        NearestNeighbors(n_neighbors=1).fit(others.values).kneighbors(points.values)
    )
    return distances[:, 0], indices[:, 0]


def _difference_of_means(training: np.ndarray, held_out: np.ndarray, axis: int) -> np.ndarray:
    return training.mean(axis=axis) - held_out.mean(axis=axis)


def _auc(members: np.ndarray, others: np.ndarray, axis: int = -1) -> np.ndarray:
    """The probability that a member scores above another; ties count half."""
    count, other_count = members.shape[axis], others.shape[axis]
    ranks = stats.rankdata(np.concatenate([members, others], axis=axis), axis=axis)
    total = np.take(ranks, range(count), axis=axis).sum(axis=axis)
    return (total - count * (count + 1) / 2) / (count * other_count)
