"""Poisson samples: their law, their independence, their freshness."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tfdp import sampling


def draws(num_examples, probability, count, seed=0):
    """Inclusion matrix ``(count, num_examples)`` of independent samples."""

    @tf.function
    def draw(step):
        return sampling.poisson_indices(num_examples, probability, tf.stack([seed, step]))

    included = np.zeros((count, num_examples), bool)
    for step in range(count):
        indices = draw(tf.constant(step)).numpy()
        assert (np.diff(indices) > 0).all()
        included[step, indices] = True
    return included


@pytest.mark.parametrize("probability", [0.003, 0.1, 0.5, 0.97])
def test_every_example_enters_with_the_same_probability_independently(probability):
    count, num_examples = 2000, 60
    included = draws(num_examples, probability, count)
    per_example = included.sum(0)
    variance = count * probability * (1 - probability)
    chi_square = ((per_example - count * probability) ** 2 / variance).sum()
    assert stats.chi2.sf(chi_square, num_examples) > 1e-4
    sizes = included.sum(1)
    mean = num_examples * probability
    assert abs(sizes.mean() - mean) < 5 * np.sqrt(mean * (1 - probability) / count)
    ratio = sizes.var() / (mean * (1 - probability))
    assert abs(ratio - 1) < 0.2
    if probability >= 0.1:  # Pairs are too rare to be counted otherwise.
        correlations = np.corrcoef(included.T)[~np.eye(num_examples, dtype=bool)]
        assert np.abs(correlations).max() < 6 / np.sqrt(count)


def test_all_or_none():
    assert draws(5, 1.0, 3).all()
    assert draws(1000, 1e-9, 5).sum() == 0


def test_batches_differ_in_size_and_carry_their_rows():
    x = {"a": np.arange(100), "b": np.arange(200).reshape(100, 2)}
    data = sampling.PoissonDataset(x, np.arange(100), expected_batch_size=10)
    assert data.sampling_probability == 0.1 and len(data) == 10 and data.num_examples == 100
    sizes = []
    for inputs, y in data:
        np.testing.assert_array_equal(inputs["a"], y)
        np.testing.assert_array_equal(inputs["b"][:, 0], 2 * y)
        sizes.append(len(y))
    assert len(sizes) == 10 and len(set(sizes)) > 1


def test_epochs_are_fresh_unless_seeded():
    def epochs(seed):
        data = sampling.PoissonDataset(np.arange(200), expected_batch_size=50, seed=seed)
        return [np.concatenate([batch[0] for batch in data]) for _ in range(2)]

    first, second = epochs(None)
    assert len(first) != len(second) or (first != second).any()
    first, second = epochs(3)
    np.testing.assert_array_equal(first, second)


def test_doubles_become_floats_and_other_dtypes_stay():
    data = sampling.PoissonDataset(
        np.zeros((4, 2)), np.zeros(4, "uint8"), expected_batch_size=2, steps_per_epoch=1
    )
    ((x, y),) = list(data)
    assert x.dtype == tf.float32 and y.dtype == tf.uint8


@pytest.mark.parametrize("length", [0, 1, 5, 12, 13])
def test_physical_batches_add_up_to_the_logical_batch(length):
    x = tf.range(length, dtype=tf.float64)
    seen = []

    @tf.function
    def total(x):
        def step(part):
            values, _ = part
            tf.debugging.assert_less_equal(tf.shape(values)[0], 4)
            seen.append(values.shape)
            return [tf.reduce_sum(values), tf.cast(tf.shape(values)[0], tf.float64)]

        zeros = [tf.zeros([], tf.float64)] * 2
        return sampling.sum_over_physical_batches((x, None), 4, step, zeros)

    value, count = total(x)
    assert value == sum(range(length)) and count == length
    assert len(seen) == 1  # Traced once, whatever the length.


@pytest.mark.parametrize(
    ("length", "sizes"),
    [(0, []), (1, [1]), (8, [8]), (11, [11]), (12, [6, 6]), (17, [8, 9]), (20, [6, 7, 7])],
)
def test_an_approximate_physical_batch_does_not_cut_what_is_a_little_larger(length, sizes):
    lengths = []

    def step(part):
        lengths.append(len(part))
        return [tf.reduce_sum(part)]

    (total,) = sampling.sum_over_physical_batches(
        tf.range(length), tf.constant(8), step, [tf.constant(0)], approximate=True
    )
    assert total == sum(range(length)) and lengths == sizes


def test_samples_are_drawn_from_seeds_of_full_width(monkeypatch):
    seeds = []
    original = tf.random.stateless_uniform

    def recorded(shape, seed, **options):
        seeds.append(seed)
        return original(shape, seed, **options)

    monkeypatch.setattr(tf.random, "stateless_uniform", recorded)
    key = tf.constant([2**40 + 1, 2**41 + 3], tf.int64)
    sampling.poisson_indices(1000, 0.5, key)
    data = sampling.PoissonDataset(np.arange(100), expected_batch_size=50, capacity=50)
    for step in range(4):
        data._draw(key + step)
    assert len(seeds) >= 6  # The subset of a sample that is too large has a seed, too.
    for seed in seeds:
        assert seed.dtype == tf.int64
        assert abs(int(seed[0])) > 2**32  # Else two steps in a long run would be the same.
