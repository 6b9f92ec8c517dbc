"""Discrete Gaussian noise: its grid, its law, its sensitivity, and the lemmas of its proof."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from tfdp.noise import DiscreteGaussianNoise, GaussianNoise
from tfdp.noise.sampler import DiscreteGaussianSampler


def steps_of(noise, stddev, size=20_000):
    """Draws in steps of the grid."""
    draws = noise.add([tf.zeros([size], tf.float64)], stddev)[0].numpy() / noise.grid(stddev)
    np.testing.assert_array_equal(draws, np.rint(draws))
    return draws.astype(np.int64)


def test_kolmogorov_smirnov_accepts_the_scale_and_rejects_others():
    draws = steps_of(DiscreteGaussianNoise(1.0), 3.0) * 2.0**-22
    assert stats.kstest(draws, "norm", args=(0, 3.0)).pvalue > 1e-4
    for wrong in (2.0, 4.5):
        assert stats.kstest(draws, "norm", args=(0, wrong)).pvalue < 1e-6
    fast = GaussianNoise().add([tf.zeros([20_000])], 3.0)[0]
    assert stats.ks_2samp(draws, fast).pvalue > 1e-4


def test_the_lowest_digits_are_uniform_and_the_highest_normal():
    steps = steps_of(DiscreteGaussianNoise(1.0), 1.9, 200_000)
    for modulus in (2, 3, 16, 127, 128, 2**10):
        assert stats.chisquare(np.bincount(steps % modulus, minlength=modulus)).pvalue > 1e-4
    edges = stats.norm.ppf(np.arange(1, 100) / 100, scale=1.9 * 2**23)
    assert stats.chisquare(np.bincount(np.searchsorted(edges, steps))).pvalue > 1e-4


def test_the_noise_grows_by_what_rounding_adds_to_the_sensitivity():
    size = 20_000
    tenth = 10 * math.sqrt(size) * 2.0**-23  # Of which rounding is a tenth, with a stddev of 1.
    draws = steps_of(DiscreteGaussianNoise(tenth), 1.0, size) * 2.0**-23
    assert stats.kstest(draws, "norm", args=(0, 1.1)).pvalue > 1e-4
    assert stats.kstest(draws, "norm", args=(0, 1.0)).pvalue < 1e-6


@pytest.mark.parametrize(
    ("stddev", "grid"), [(1.0, 2.0**-23), (1.999, 2.0**-23), (2.0, 2.0**-22), (1e-6, 2.0**-43)]
)
def test_the_grid_follows_from_the_noise(stddev, grid):
    assert DiscreteGaussianNoise(1.0).grid(stddev) == grid


@pytest.mark.parametrize("dtype", [tf.float64, tf.float32, tf.bfloat16, tf.float16])
def test_every_released_number_is_a_multiple_of_the_grid(dtype):
    noise = DiscreteGaussianNoise(0.5)
    values = np.random.default_rng(0).normal(size=(50, 20))
    (noisy,) = noise.add([tf.constant(values, dtype)], 0.7)
    assert noisy.dtype == dtype and noisy.shape == (50, 20)
    steps = tf.cast(noisy, tf.float64).numpy() / noise.grid(0.7)
    np.testing.assert_array_equal(steps, np.rint(steps))
    assert 0.5 < (tf.cast(noisy, tf.float64).numpy() - values).std() < 0.9


def rounded(noise, values, stddev):
    """What is released, less the noise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DiscreteGaussianSampler, "draw", lambda self, n: np.zeros(n, np.int64))
        return noise.add([tf.constant(values)], stddev)[0].numpy()


NUMBERS = st.floats(-4, 4, width=32)


@given(
    st.integers(1, 60).flatmap(
        lambda size: st.tuples(*[arrays.arrays(np.float64, size, elements=NUMBERS)] * 2)
    ),
    st.sampled_from([0.3, 1.0, 50.0]),
)
def test_rounding_moves_neighbours_by_no_more_than_is_accounted_for(values, noise_multiplier):
    total, gradient = values
    clip = 2.0**-16
    gradient *= min(1.0, clip / max(np.linalg.norm(gradient), 1e-300)) * (1 - 1e-15)
    noise, stddev = DiscreteGaussianNoise(clip), noise_multiplier * clip
    moved = rounded(noise, total + gradient, stddev) - rounded(noise, total, stddev)
    grid = noise.grid(stddev)
    within = np.linalg.norm(total + gradient - total)  # The gradient, as float64 has added it.
    assert np.linalg.norm(moved) <= (within + math.sqrt(total.size) * grid) * (1 + 1e-12)
    assert within <= clip + math.sqrt(total.size) * 2.0**-50


def test_rounding_can_move_neighbours_by_as_much_as_is_accounted_for():
    noise, size = DiscreteGaussianNoise(1.0), 100
    grid = noise.grid(1.0)
    hair = 1e-6 * grid
    low = np.full(size, (0.5 - 1e-6) * grid)
    moved = rounded(noise, low + 2 * hair, 1.0) - rounded(noise, low, 1.0)
    assert np.linalg.norm(moved) == pytest.approx(10 * grid)
    assert np.linalg.norm(2 * hair * np.ones(size)) < 1e-4 * grid


def test_what_is_beyond_float64_s_whole_numbers_is_cut():
    noise = DiscreteGaussianNoise(1.0)
    (noisy,) = noise.add([tf.constant([1e30, -np.inf, 7.0], tf.float64)], 1.0)
    most = 2.0 ** (50 - 23)
    np.testing.assert_allclose(noisy, [most, -most, 7.0], atol=10.0)


def test_noise_is_new_at_every_call_step_tensor_and_source():
    noise = DiscreteGaussianNoise(1.0)

    @tf.function
    def draw():
        steps = tf.TensorArray(tf.float32, 3)
        for step in tf.range(3):
            noisy = noise.add([tf.zeros([1000]), tf.zeros([1000])], 1.0)
            steps = steps.write(step, tf.stack(noisy))
        return tf.reshape(steps.stack(), [6, 1000])

    other = DiscreteGaussianNoise(1.0).add([tf.zeros([1000])], 1.0)
    draws = [*draw().numpy(), *draw().numpy(), other[0].numpy()]
    for i, left in enumerate(draws):
        for right in draws[:i]:
            assert abs(np.corrcoef(left, right)[0, 1]) < 0.2


def test_zero_noise_changes_nothing():
    tensors = [tf.constant([[0.1, 0.2]])]
    assert DiscreteGaussianNoise(1.0).add(tensors, 0.0)[0] is tensors[0]
    assert DiscreteGaussianNoise(1.0).add([], 1.0) == []


def test_what_it_cannot_do_is_refused():
    noise = DiscreteGaussianNoise(1.0)
    with pytest.raises(ValueError, match="replicas=2"):
        noise.add([tf.zeros([3])], 1.0, 2)
    with pytest.raises(ValueError, match="stddev=1e-300"):
        noise.add([tf.zeros([3])], 1e-300)
    with pytest.raises(ValueError, match="Rounding 16 numbers .* sensitivity 1.0.*stddev=1000000"):
        noise.add([tf.zeros([16])], 1e6)
    with pytest.raises(ValueError, match=r"must be known beforehand.*\[None\]"):
        tf.function(lambda x: noise.add([x], 1.0)).get_concrete_function(tf.TensorSpec([None]))


# The lemmas that the page on guarantees takes its proof from, where numbers can show them.


@pytest.mark.parametrize("s", [0.5, 0.7, 1.0])
def test_sums_of_gaussians_on_integers_hardly_depend_on_where_they_are_shifted_to(s):
    shifts = np.linspace(0, 1, 101)
    sums = np.exp(-((np.arange(-60, 61)[:, None] - shifts) ** 2) / (2 * s**2)).sum(0)
    deviation = np.abs(sums / (s * math.sqrt(2 * math.pi)) - 1).max()
    assert deviation == pytest.approx(deviation_of(s), rel=1e-3)


def deviation_of(s):
    """By how much the sums deviate at most, by Poisson's summation formula."""
    return 2 * sum(math.exp(-2 * (math.pi * s * m) ** 2) for m in range(1, 9))


@pytest.mark.parametrize("sigma", [2.0, 2.5, 3.0, 8.0])
def test_digits_add_up_to_a_discrete_gaussian(sigma, digit=4):
    def pmf(sigma, reach):
        weights = np.exp(-(np.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
        return weights / weights.sum()

    reach = int(14 * sigma)
    total = np.ones(1)
    for power in range(3):
        spread = np.zeros(2 * reach * digit**power + 1)
        spread[:: digit**power] = pmf(sigma, reach)
        total = np.convolve(total, spread)
    stddev = sigma * math.sqrt(1 + digit**2 + digit**4)
    middle, seen = len(total) // 2, int(5 * stddev)
    seen = slice(middle - seen, middle + seen + 1)
    ratio = np.abs(np.log(total[seen] / pmf(stddev, middle)[seen])).max()
    bound = 0
    for power in (1, 2):  # With each digit that is added.
        before = sum(digit ** (2 * i) for i in range(power))
        s = sigma * math.sqrt(before / (before + digit ** (2 * power)))
        bound += math.log((1 + deviation_of(s)) / (1 - deviation_of(s)))
    assert bound / 10 < ratio + 1e-11 and ratio < bound + 1e-11
