"""The Gaussian noise: its law, its scale, its freshness."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tfdp.noise import GaussianNoise


def sample(noise, stddev, size=20_000):
    return noise.add([tf.zeros([size])], stddev)[0].numpy()


def test_kolmogorov_smirnov_accepts_the_scale_and_rejects_others():
    draws = sample(GaussianNoise(), 3.0)
    assert stats.kstest(draws, "norm", args=(0, 3.0)).pvalue > 1e-4
    for wrong in (2.0, 4.5):
        assert stats.kstest(draws, "norm", args=(0, wrong)).pvalue < 1e-6


def test_noise_is_added_and_zero_noise_changes_nothing():
    tensors = [tf.constant([[1.0, 2.0]]), tf.constant([5.0], tf.float64)]
    same = GaussianNoise().add(tensors, 0.0)
    assert all((a.numpy() == b.numpy()).all() for a, b in zip(same, tensors, strict=True))
    noisy = GaussianNoise().add(tensors, 1e-2)  # Much less might be rounded away.
    for a, b in zip(noisy, tensors, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, atol=0.1)
        assert (a.numpy() != b.numpy()).all()


def test_noise_is_new_at_every_call_tensor_and_source():
    noise = GaussianNoise()
    draw = tf.function(lambda: noise.add([tf.zeros([1000]), tf.zeros([1000])], 1.0))
    draws = [*draw(), *draw(), sample(GaussianNoise(), 1.0, 1000)]
    for i, left in enumerate(draws):
        for right in draws[:i]:
            assert abs(np.corrcoef(left, right)[0, 1]) < 0.2


def test_a_seed_fixes_it():
    np.testing.assert_array_equal(sample(GaussianNoise(7), 1.0), sample(GaussianNoise(7), 1.0))


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
def test_low_precision_tensors_get_noise_drawn_in_float32(dtype):
    draws = GaussianNoise().add([tf.zeros([10_000], dtype)], 2.0)[0]
    assert draws.dtype == dtype
    assert abs(tf.cast(draws, tf.float32).numpy().std() / 2.0 - 1) < 0.05
