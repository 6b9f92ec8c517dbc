"""Clip bounds and their factors."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdp import clipping


def two_layers():
    return keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, name="first"), keras.layers.Dense(2, name="last")]
    )


def test_factors_table():
    norms = tf.constant([0.0, 0.5, 1.0, 2.0, np.inf, np.nan])
    assert clipping.clip_factors(norms, 1.0).numpy().tolist() == [1, 1, 1, 0.5, 0, 0]
    assert clipping.clip_factors(norms, math.inf).numpy().tolist() == [1, 1, 1, 1, 0, 0]
    automatic = clipping.clip_factors(norms, 1.0, 0.5).numpy()
    np.testing.assert_allclose(automatic, [2, 1, 1 / 1.5, 0.4, 0, 0], rtol=1e-6)
    assert (automatic[:4] * norms[:4].numpy() <= 1).all()


@pytest.mark.parametrize(
    "bound",
    [{"first": 3.0, "last": 4.0}, [3.0, 4.0], {"first": 3, "last": np.float32(4)}],
)
def test_layers_are_bounded_by_themselves(bound):
    spec = clipping.ClipBound(bound)
    assert spec.sensitivity == 5.0
    clipper = spec.resolve(two_layers())
    assert clipper.groups == (((0, 1), 3.0), ((2, 3), 4.0))
    squared = [tf.constant([36.0]), None, tf.constant([9.0]), tf.constant([7.0])]
    factors = clipper.factors(squared)
    assert factors[0] == 0.5 and factors[1] is None and factors[2] == factors[3] == 1.0


def test_flat_bound_joins_all_variables():
    spec = clipping.ClipBound(2.0)
    assert spec.sensitivity == 2.0
    factors = spec.resolve(two_layers()).factors([tf.constant([4.0])] * 4)
    assert [f.numpy() for f in factors] == [[0.5]] * 4


@pytest.mark.parametrize(
    ("bound", "message"),
    [
        ([1.0], r"2 layers.*l2_norm_clip=\[1.0\]"),
        ({"first": 1.0}, "l2_norm_clip=.'first': 1.0."),
        ({"first": 1.0, "last": 1.0, "other": 1.0}, "other"),
        ({"first": 1.0, "other": 1.0}, "other"),
    ],
)
def test_a_bound_for_other_layers_is_refused(bound, message):
    with pytest.raises(ValueError, match=message):
        clipping.ClipBound(bound).resolve(two_layers())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0,), "l2_norm_clip=0"),
        (({"a": -1.0},), "l2_norm_clip=-1"),
        (({},), "l2_norm_clip="),
        (([],), "l2_norm_clip="),
        (([1.0, "b"],), "l2_norm_clip='b'"),
        ((1.0, 0.0), "automatic_gamma=0"),
        ((math.inf, 1.0), "l2_norm_clip=inf"),
    ],
)
def test_bad_bounds_are_named(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        clipping.ClipBound(*arguments)
