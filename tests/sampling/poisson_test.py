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


@pytest.mark.parametrize(("workers", "replicas"), [(1, 2), (2, 1), (2, 2), (1, 4)])
def test_shares_of_replicas_are_together_one_poisson_sample(workers, replicas):
    examples, batch, steps = 50, 10, 3000
    data = sampling.PoissonDataset(np.arange(examples), expected_batch_size=batch)
    counts, sizes = np.zeros(examples), np.zeros(steps)
    together = np.zeros((examples, examples))
    for worker in range(workers):
        shares = data.as_shares(worker, workers, replicas).take(steps * replicas)
        for number, share in enumerate(shares):
            (drawn,) = (share.examples[0].numpy(),)
            first, last = [
                examples * (worker * replicas + number % replicas + edge) // (workers * replicas)
                for edge in (0, 1)
            ]
            assert ((drawn >= first) & (drawn < last)).all() and (np.diff(drawn) > 0).all()
            counts[drawn] += 1
            sizes[number // replicas] += len(drawn)
            together[np.ix_(drawn, drawn)] += 1
    q = batch / examples
    # Every example as often as the others, and the sizes of the whole batches are binomial.
    excess = (counts - steps * q) ** 2 / (steps * q * (1 - q))
    assert stats.chi2(examples).sf(excess.sum()) > 1e-4
    observed = np.bincount(sizes.astype(int), minlength=examples + 1)[: examples + 1]
    expected = stats.binom(examples, q).pmf(np.arange(examples + 1)) * steps
    large = expected > 5
    parts = [np.append(values[large], values[~large].sum()) for values in (observed, expected)]
    assert stats.chisquare(*parts).pvalue > 1e-4
    pairs = together[np.triu_indices(examples, 1)]
    assert pairs.max() < steps * q * q + 6 * np.sqrt(steps * q * q)  # no two go together


def test_each_worker_can_hold_its_own_part_of_the_examples():
    part = sampling.PoissonDataset(np.arange(20), expected_batch_size=30, num_examples=60)
    assert part.num_examples == 60 and part.sampling_probability == 0.5 and len(part) == 2
    sizes = [len(share.examples[0]) for share in part.as_shares(1, 3, 2).take(400)]
    assert abs(np.mean(sizes) - 5) < 0.6 and max(sizes) <= 10
    with pytest.raises(ValueError, match="num_examples=19"):
        sampling.PoissonDataset(np.arange(20), num_examples=19)


def test_a_share_without_examples_is_an_empty_batch():
    data = sampling.PoissonDataset(np.arange(2), expected_batch_size=1)
    shares = [len(share.examples[0]) for share in data.as_shares(0, 1, 4).take(40)]
    assert sum(shares[0::4]) == sum(shares[2::4]) == 0 < sum(shares[1::4]) < 10


def test_shares_with_a_capacity_are_cut_and_padded_each():
    data = sampling.PoissonDataset(np.arange(30), expected_batch_size=15, capacity=15)
    seen = set()
    for share in data.as_shares(0, 1, 2).take(60):
        assert share.examples[0].shape == (8,) and share.valid.shape == (8,)
        seen |= set(share.examples[0].numpy()[share.valid.numpy()])
    assert seen == set(range(30))
