"""Tests of the argument checks."""

import fractions
import math
import re

import numpy as np
import pytest

from tfdp import _validate

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("check", "value", "expected"),
    [
        (_validate.real, -3, -3.0),
        (_validate.real, np.float32(0.5), 0.5),
        (_validate.real, fractions.Fraction(1, 4), 0.25),
        (_validate.positive, np.int64(2), 2.0),
        (_validate.non_negative, 0, 0.0),
        (_validate.probability, 0, 0.0),
        (_validate.probability, 1, 1.0),
        (_validate.delta, 1e-300, 1e-300),
        (_validate.integer, np.int32(7), 7),
        (_validate.text, "a", "a"),
    ],
)
def test_good_values_become_plain_python_values(check, value, expected):
    result = check("x", value)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("check", "value", "error"),
    [
        (_validate.real, "1", TypeError),
        (_validate.real, None, TypeError),
        (_validate.real, 1j, TypeError),
        (_validate.real, True, TypeError),
        (_validate.real, np.bool_(True), TypeError),
        (_validate.real, [1.0], TypeError),
        (_validate.real, NAN, ValueError),
        (_validate.real, INF, ValueError),
        (_validate.real, 10**400, ValueError),
        (_validate.positive, 0.0, ValueError),
        (_validate.positive, -1, ValueError),
        (_validate.non_negative, -1e-9, ValueError),
        (_validate.probability, 1.0000001, ValueError),
        (_validate.probability, -0.1, ValueError),
        (_validate.delta, 0.0, ValueError),
        (_validate.delta, 1, ValueError),
        (_validate.integer, 1.0, TypeError),
        (_validate.integer, True, TypeError),
        (_validate.integer, "3", TypeError),
        (_validate.text, "", ValueError),
        (_validate.text, 3, TypeError),
    ],
)
def test_bad_values_are_refused_by_name_and_value(check, value, error):
    with pytest.raises(error, match=re.escape(f"Received: the_name={value!r}") + "$"):
        check("the_name", value)


def test_infinity_passes_only_where_it_makes_sense():
    assert _validate.positive("x", INF, allow_infinity=True) == INF
    assert _validate.non_negative("x", INF, allow_infinity=True) == INF
    for check in (_validate.positive, _validate.non_negative):
        with pytest.raises(ValueError, match="finite"):
            check("x", INF)
        with pytest.raises(ValueError, match="Received: x=nan"):
            check("x", NAN, allow_infinity=True)


def test_integers_have_bounds():
    assert _validate.integer("n", 3, minimum=3, maximum=3) == 3
    with pytest.raises(ValueError, match="at least 4. Received: n=3"):
        _validate.integer("n", 3, minimum=4)
    with pytest.raises(ValueError, match="at most 2. Received: n=3"):
        _validate.integer("n", 3, maximum=2)


def test_choices():
    assert _validate.one_of("k", "b", ("a", "b")) == "b"
    for value in ("c", None, 1, True):
        with pytest.raises(ValueError, match="one of 'a', 2. Received: k="):
            _validate.one_of("k", value, ("a", 2))
