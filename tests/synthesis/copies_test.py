"""Copies of training images are found; images drawn apart from them are not taken for copies."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

import tfdp
from tfdp.synthesis import Features
from tfdp.synthesis.copies import _auc


def draw(count, seed, dimension=6):
    return np.random.default_rng(seed).normal(size=(count, dimension))


def check(synthetic, training, held_out, **kwargs):
    sets = (Features("test", values) for values in (synthetic, training, held_out))
    return tfdp.synthesis.copy_check(*sets, **{"resamples": 200, **kwargs})


def test_the_area_is_that_of_scikit_learn_also_with_ties():
    random = np.random.default_rng(0)
    members, others = random.integers(0, 5, (3, 20)), random.integers(0, 4, (3, 30))
    areas = _auc(members, others)
    for area, row, other in zip(areas, members, others, strict=True):
        expected = roc_auc_score([1] * 20 + [0] * 30, [*row, *other])
        assert area == pytest.approx(expected)


def test_planted_copies_are_found():
    training, held_out = draw(150, 1), draw(150, 2)
    result = check(training + 1e-3 * draw(150, 3), training, held_out)
    assert result.auc > 0.99 and result.auc_low > 0.98
    assert result.closer_to_training > 0.99
    assert result.p_value == pytest.approx(1 / 201)
    assert result.detected > 0.99
    assert result.distance_to_training < 0.01 < result.distance_to_held_out


def test_a_few_copies_among_many_images_are_found():
    training, held_out = draw(200, 1), draw(200, 2)
    result = check(np.concatenate([draw(200, 3), training[:60]]), training, held_out)
    assert result.p_value < 0.02
    assert result.detected >= 0.3  # The 60 copied ones are at no distance.


def test_independent_images_are_at_chance():
    results = [
        check(draw(100, 3 * seed), draw(120, 3 * seed + 1), draw(120, 3 * seed + 2))
        for seed in range(20)
    ]
    # Each interval misses one time in twenty.
    assert sum(r.auc_low <= 0.5 <= r.auc_high for r in results) >= 16
    assert sum(r.p_value < 0.05 for r in results) <= 4
    assert np.mean([r.auc for r in results]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([r.closer_to_training for r in results]) == pytest.approx(0.5, abs=0.04)


def test_sets_of_different_sizes_are_no_sign_of_copies():
    results = [
        check(draw(60, 3 * seed), draw(300, 3 * seed + 1), draw(60, 3 * seed + 2))
        for seed in range(10)
    ]
    assert results[0].expected == pytest.approx(300 / 360)
    shares = [r.closer_to_training for r in results]
    assert np.mean(shares) == pytest.approx(300 / 360, abs=0.05)
    assert sum(r.p_value < 0.05 for r in results) <= 3


def test_one_image_made_over_and_over_is_not_taken_for_many_finds():
    """All of it is next to one training image, as would be so in half of all cases by chance."""
    training, held_out = draw(50, 1), draw(50, 2)
    near = training[0] + 0.1 * draw(1, 3)
    result = check(np.repeat(near, 500, axis=0), training, held_out)
    assert result.closer_to_training == 1.0
    assert result.p_value > 0.2


def test_an_image_in_both_sets_counts_for_both():
    training = draw(40, 1)
    held_out = training.copy()
    result = check(draw(50, 2), training, held_out)
    assert result.closer_to_training == 0.5
    assert result.auc == pytest.approx(0.5)


def test_a_seed_fixes_the_result_and_it_says_what_it_is_not():
    sets = draw(40, 1), draw(40, 2), draw(40, 3)
    assert check(*sets, seed=1) == check(*sets, seed=1)
    result = check(*sets)
    assert "no privacy guarantee" in str(result) and "test" in str(result)
    assert result.to_dict()["held_out"] == 40


def test_pictures_of_the_closest_pairs():
    training_images = np.random.default_rng(0).random((20, 4, 4, 1))
    synthetic_images = np.random.default_rng(1).random((10, 4, 4, 1))
    synthetic_images[7] = training_images[3]
    synthetic_images[2] = np.clip(training_images[5] + 0.02, 0, 1)
    pixels = tfdp.synthesis.pixel_features((4, 4, 1))
    figure = tfdp.synthesis.closest_pairs(
        pixels(synthetic_images),
        pixels(training_images),
        synthetic_images,
        training_images,
        pairs=2,
    )
    images = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    expected = synthetic_images[7], synthetic_images[2], training_images[3], training_images[5]
    for image, wanted in zip(images, expected, strict=True):
        np.testing.assert_allclose(image, wanted[..., 0], atol=1e-6)
    assert float(figure.axes[0].get_title()) < float(figure.axes[1].get_title())
    assert [axes.get_ylabel() for axes in figure.axes] == ["synthetic", "", "training", ""]
