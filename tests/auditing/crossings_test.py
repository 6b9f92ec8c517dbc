"""Recordings of what noise is added to."""

import numpy as np
import tensorflow as tf

import tfdp
from tfdp import _entropy, sampling, statistics
from tfdp.auditing.crossings import recorded
from tfdp.noise import GaussianNoise
from tfdp.sampling import physical

X = np.arange(40.0, dtype="float32")[:, None]


def drawn(kind):
    """What is drawn of forty examples in each way: the numbers of the examples."""
    data = sampling.PoissonDataset(X, expected_batch_size=20)
    if kind == "indices":
        return sampling.poisson_indices(40, 0.5, _entropy.fresh_seed()).numpy()
    if kind == "batch":
        return next(iter(data.as_batches(1))).examples[0].numpy().ravel()
    if kind == "examples":
        return next(iter(data.as_tf_dataset()))[0].numpy().ravel()
    if kind == "shares":
        shares = iter(data.as_shares(0, 1, 2))
        return np.concatenate([next(shares).examples[0].numpy().ravel() for _ in range(2)])
    return np.concatenate(list(statistics._blocks(X))).ravel()


def test_samples_are_the_same_but_for_the_last_example():
    for kind in ("indices", "batch", "examples", "shares", "blocks"):
        for seed in range(20):  # In some samples it is not.
            with recorded(seed):
                there = drawn(kind)
            if there[-1] == 39:
                break
        with recorded(seed, without_last=True):
            np.testing.assert_array_equal(drawn(kind), there[:-1], err_msg=kind)
        assert 10 < len(there) and there[-1] == 39


def test_values_are_recorded_in_graphs_and_eagerly_and_can_be_replayed():
    @tf.function
    def twice(noise, tensors):
        first = noise.add(tensors, 3.0, replicas=4)
        return first, noise.add([sum(first)], 0.0)

    def run(shift):
        noise = GaussianNoise()
        first, second = twice(noise, [tf.constant([1.0 + shift, 2.0]), tf.constant(5.0)])
        return [value.numpy() for value in (*first, *second, *noise.add([tf.constant(shift)], 1.0))]

    with recorded(0) as one:
        values = run(0.0)
    with recorded(0, replayed=one) as other:
        again = run(9.0)
    for mine, theirs in zip(values, again, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    for recording, shift in ((one, 0.0), (other, 9.0)):
        (first,), (second,), (third,) = recording.crossings
        np.testing.assert_array_equal(first.before, [1.0 + shift, 2.0, 5.0])
        np.testing.assert_array_equal(third.before, [shift])
        assert (first.stddev, first.replicas, first.shapes) == (3.0, 4, ((2,), ()))
        assert (second.source, second.stddev, third.stddev) == (first.source, 0.0, 1.0)
    np.testing.assert_array_equal(one.crossings[0][0].after, [*values[0], values[1]])


def test_batches_are_cut_where_those_of_the_other_run_were():
    def found(rows):
        """The lengths of the physical batches."""

        @tf.function
        def lengths(rows):
            def step(part):
                return [tf.one_hot(tf.shape(part)[0], 9)]

            return physical.sum_over_physical_batches(rows, 4, step, [tf.zeros([9])])[0]

        counts = lengths(tf.zeros([rows])).numpy().astype(int)
        return np.repeat(np.arange(9), counts).tolist()

    assert (found(9), found(8)) == ([3, 3, 3], [4, 4])
    with recorded(0) as one:
        assert found(9) == [3, 3, 3]
    with recorded(0, replayed=one):
        assert found(8) == [2, 3, 3]


def test_nothing_of_it_stays():
    before = (_entropy.signed_64_bits, GaussianNoise.add, physical.batch_length)
    with recorded(0, without_last=True):
        assert _entropy.signed_64_bits is not before[0]
    assert (_entropy.signed_64_bits, GaussianNoise.add, physical.batch_length) == before
    assert tfdp.sampling.poisson_indices(4, 1.0, [1, 2]).shape == [4]
