"""The Fréchet distance against closed forms; precision and recall on sets made to have them."""

import numpy as np
import pytest
from scipy import linalg

import tfdp
from tfdp.synthesis import Features

gaussian = tfdp.synthesis.gaussian_frechet_distance


def random_covariance(random, size):
    root = random.normal(size=(size, size))
    return root @ root.T


def features(values, extractor="test"):
    return Features(extractor, np.asarray(values, float))


def test_closed_forms_of_gaussians():
    assert gaussian([1.0], [[4.0]], [3.0], [[9.0]]) == pytest.approx(4 + (2 - 3) ** 2)
    a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 4.0, 1.0])
    expected = np.sum((np.sqrt(a) - np.sqrt(b)) ** 2)
    assert gaussian(np.zeros(3), np.diag(a), np.zeros(3), np.diag(b)) == pytest.approx(expected)


def test_the_general_case_is_that_of_the_matrix_square_root():
    random = np.random.default_rng(0)
    first, second = random_covariance(random, 5), random_covariance(random, 5)
    root = linalg.sqrtm(first @ second)
    assert np.abs(np.imag(root)).max() < 1e-6
    expected = np.trace(first + second - 2 * np.real(root)) + 5.0
    assert gaussian(np.zeros(5), first, np.ones(5), second) == pytest.approx(expected, rel=1e-8)


def test_rotations_and_shifts_change_nothing_and_scales_square():
    random = np.random.default_rng(1)
    first, second = random_covariance(random, 4), random_covariance(random, 4)
    m1, m2 = random.normal(size=(2, 4))
    distance = gaussian(m1, first, m2, second)
    assert gaussian(m2, second, m1, first) == pytest.approx(distance)
    turn, _ = np.linalg.qr(random.normal(size=(4, 4)))
    turned = gaussian(turn @ m1 + 7, turn @ first @ turn.T, turn @ m2 + 7, turn @ second @ turn.T)
    assert turned == pytest.approx(distance)
    assert gaussian(3 * m1, 9 * first, 3 * m2, 9 * second) == pytest.approx(9 * distance)


def test_singular_covariances():
    line, point = np.diag([1.0, 0.0]), np.zeros((2, 2))
    other = np.diag([0.0, 1.0])
    zero = np.zeros(2)
    assert gaussian(zero, line, zero, other) == pytest.approx(2.0)
    assert gaussian(zero, line, zero, point) == pytest.approx(1.0)
    assert gaussian(zero, point, zero, point) == 0.0
    random = np.random.default_rng(2)
    low_rank = random.normal(size=(40, 3))
    low_rank = low_rank @ low_rank.T
    assert gaussian(np.zeros(40), low_rank, np.zeros(40), low_rank) < 1e-5


def test_what_is_no_covariance_is_refused():
    for bad, error in (
        ([[1.0, 2.0], [0.0, 1.0]], "symmetric"),
        ([[1.0, 0.0], [0.0, -0.5]], "semi-definite"),
        ([[1e-12, 0.0], [0.0, -1e-12]], "semi-definite"),
    ):
        with pytest.raises(ValueError, match=error):
            gaussian(np.zeros(2), np.eye(2), np.zeros(2), bad)


def test_frechet_distance_of_samples_is_near_that_of_their_distributions():
    random = np.random.default_rng(3)
    real = random.normal(size=(20_000, 3))
    synthetic = random.normal(size=(20_000, 3)) * [2.0, 1.0, 1.0] + [0.0, 0.0, 3.0]
    result = tfdp.synthesis.frechet_distance(features(real), features(synthetic))
    assert result.distance == pytest.approx(1 + 9, rel=0.03)
    assert (result.real, result.synthetic, result.dimension) == (20_000, 20_000, 3)
    assert tfdp.synthesis.frechet_distance(features(real), features(real)).distance < 1e-9
    assert result.to_dict()["extractor"] == "test"
    assert "test" in str(result)


def test_features_of_one_number():
    real, synthetic = features([[0.0], [2.0]]), features([[1.0], [5.0]])
    result = tfdp.synthesis.frechet_distance(real, synthetic)
    assert result.distance == pytest.approx(4 + (np.sqrt(2) - np.sqrt(8)) ** 2)


def test_too_few_images_for_a_covariance_are_refused():
    enough, few = features(np.eye(5)[:, :4]), features(np.eye(4))
    for name, pair in (("real", (few, enough)), ("synthetic", (enough, few))):
        with pytest.raises(ValueError, match=f"`{name}`.*4 features.*4 images"):
            tfdp.synthesis.frechet_distance(*pair)


def test_features_of_two_extractors_are_not_compared():
    for metric in (tfdp.synthesis.frechet_distance, tfdp.synthesis.precision_recall):
        with pytest.raises(ValueError, match="same extractor.*'b'"):
            metric(features(np.eye(5)[:, :2], "a"), features(np.eye(5)[:, :2], "b"))


def precision_and_recall(real, synthetic, **kwargs):
    result = tfdp.synthesis.precision_recall(features(real), features(synthetic), **kwargs)
    return result.precision, result.recall


def test_identical_and_disjoint_sets():
    points = np.random.default_rng(4).normal(size=(200, 3))
    assert precision_and_recall(points, points) == (1.0, 1.0)
    assert precision_and_recall(points, points + 100) == (0.0, 0.0)


def test_half_covered_and_half_invented():
    random = np.random.default_rng(5)
    here = random.normal(size=(200, 2))
    there = random.normal(size=(200, 2)) + 100
    both = np.concatenate([here, there])
    assert precision_and_recall(both, here) == (1.0, 0.5)
    assert precision_and_recall(here, both) == (0.5, 1.0)


def test_neighbourhoods_reach_to_the_kth_neighbour():
    real = np.array([[0.0], [1.0], [3.0], [100.0]])  # Radii for k=1: 1, 1, 2, 97.
    synthetic = np.array([[-0.9], [-1.1], [5.1], [300.0]])
    assert precision_and_recall(real, synthetic, neighbors=1)[0] == 0.5  # -0.9, and 5.1 by 100.
    assert precision_and_recall(real, synthetic, neighbors=2)[0] == 0.75  # Radii 3, 2, 3, 99.
    result = tfdp.synthesis.precision_recall(features(real), features(synthetic), neighbors=2)
    assert result.to_dict()["neighbors"] == 2 and "k=2" in str(result)
