"""Checks of arguments, in one place.

Every function takes the argument's name and its value and returns the value as a plain Python
object. A value of the wrong type raises `TypeError`, a value out of range raises `ValueError`;
both messages end in ``Received: name=value``.

`bool` is not a number here: ``steps=True`` is a mistake, not one step. Numpy scalars are numbers.
NaN is refused always, infinity unless `allow_infinity` says otherwise.
"""

import math
import numbers
import os
from collections.abc import Collection
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")


def _received(name: str, value: Any) -> str:
    return f"Received: {name}={value!r}"


def type_error(name: str, value: Any, expected: str) -> TypeError:
    """Returns the error for a value of the wrong type, for the caller to raise.

    Args:
        name: name of the argument.
        value: the value received.
        expected: what it should have been, such as `"a mapping"`.

    Returns:
        The exception; it is not raised here.
    """
    return TypeError(f"`{name}` must be {expected}. {_received(name, value)}")


def value_error(name: str, value: Any, expected: str) -> ValueError:
    """Returns the error for a value out of range, for the caller to raise.

    Args:
        name: name of the argument.
        value: the value received.
        expected: what it should have been, such as `"at most 1"`.

    Returns:
        The exception; it is not raised here.
    """
    return ValueError(f"`{name}` must be {expected}. {_received(name, value)}")


def real(name: str, value: Any, *, allow_infinity: bool = False) -> float:
    """Checks that a value is a real number.

    Args:
        name: name of the argument.
        value: the value to check.
        allow_infinity: whether an infinite value passes. Defaults to `False`.

    Returns:
        The value as a `float`.

    Raises:
        TypeError: if the value is not a number, or is a bool.
        ValueError: if the value is NaN, too large for a float, or infinite where that is refused.

    Example:
    >>> real("x", 3)
    3.0
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise type_error(name, value, "a real number")
    try:
        result = float(value)
    except OverflowError:
        raise value_error(name, value, "small enough for a float") from None
    if math.isnan(result) or (math.isinf(result) and not allow_infinity):
        raise value_error(name, value, "a number" if allow_infinity else "a finite number")
    return result


def positive(name: str, value: Any, *, allow_infinity: bool = False) -> float:
    """Checks that a value is a real number above zero.

    Args:
        name: name of the argument.
        value: the value to check.
        allow_infinity: whether infinity passes. Defaults to `False`.

    Returns:
        The value as a `float`.

    Raises:
        TypeError: if the value is not a number, or is a bool.
        ValueError: if the value is not above zero, or not finite where that is refused.

    Example:
    >>> positive("l2_norm_clip", float("inf"), allow_infinity=True)
    inf
    """
    result = real(name, value, allow_infinity=allow_infinity)
    if result <= 0.0:
        raise value_error(name, value, "positive")
    return result


def non_negative(name: str, value: Any, *, allow_infinity: bool = False) -> float:
    """Checks that a value is a real number, zero or above.

    Args:
        name: name of the argument.
        value: the value to check.
        allow_infinity: whether infinity passes. Defaults to `False`.

    Returns:
        The value as a `float`.

    Raises:
        TypeError: if the value is not a number, or is a bool.
        ValueError: if the value is below zero, or not finite where that is refused.

    Example:
    >>> non_negative("noise_multiplier", -1)
    Traceback (most recent call last):
        ...
    ValueError: `noise_multiplier` must be non-negative. Received: noise_multiplier=-1
    """
    result = real(name, value, allow_infinity=allow_infinity)
    if result < 0.0:
        raise value_error(name, value, "non-negative")
    return result


def probability(name: str, value: Any) -> float:
    """Checks that a value lies in [0, 1].

    Args:
        name: name of the argument.
        value: the value to check.

    Returns:
        The value as a `float`.

    Raises:
        TypeError: if the value is not a number, or is a bool.
        ValueError: if the value is outside [0, 1].

    Example:
    >>> probability("sampling_probability", 1)
    1.0
    """
    result = real(name, value)
    if not 0.0 <= result <= 1.0:
        raise value_error(name, value, "a probability in [0, 1]")
    return result


def delta(name: str, value: Any) -> float:
    """Checks that a value lies strictly between 0 and 1, as the delta of a guarantee must.

    Args:
        name: name of the argument.
        value: the value to check.

    Returns:
        The value as a `float`.

    Raises:
        TypeError: if the value is not a number, or is a bool.
        ValueError: if the value is outside (0, 1).

    Example:
    >>> delta("delta", 1e-5)
    1e-05
    """
    result = real(name, value)
    if not 0.0 < result < 1.0:
        raise value_error(name, value, "strictly between 0 and 1")
    return result


def integer(
    name: str, value: Any, *, minimum: int | None = None, maximum: int | None = None
) -> int:
    """Checks that a value is an integer, possibly within bounds.

    Floats are refused even when they hold a whole number.

    Args:
        name: name of the argument.
        value: the value to check.
        minimum: smallest value that passes. Defaults to `None`, no bound.
        maximum: largest value that passes. Defaults to `None`, no bound.

    Returns:
        The value as an `int`.

    Raises:
        TypeError: if the value is not an integer, or is a bool.
        ValueError: if the value is outside the bounds.

    Example:
    >>> integer("steps", 0, minimum=1)
    Traceback (most recent call last):
        ...
    ValueError: `steps` must be at least 1. Received: steps=0
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Integral):
        raise type_error(name, value, "an integer")
    result = int(value)
    if minimum is not None and result < minimum:
        raise value_error(name, value, f"at least {minimum}")
    if maximum is not None and result > maximum:
        raise value_error(name, value, f"at most {maximum}")
    return result


def one_of(name: str, value: T, choices: Collection[T]) -> T:
    """Checks that a value is among the choices.

    Args:
        name: name of the argument.
        value: the value to check.
        choices: what passes; compared by `==`.

    Returns:
        The choice that equals the value.

    Raises:
        ValueError: if the value equals none of the choices.

    Example:
    >>> one_of("accountant", "rdp", ("rdp", "pld"))
    'rdp'
    """
    for choice in choices:
        if type(value) is type(choice) and value == choice:
            return choice
    raise value_error(name, value, "one of " + ", ".join(repr(choice) for choice in choices))


def text(name: str, value: Any) -> str:
    """Checks that a value is a string with something in it.

    Args:
        name: name of the argument.
        value: the value to check.

    Returns:
        The value.

    Raises:
        TypeError: if the value is not a string.
        ValueError: if the value is empty or only white space.

    Example:
    >>> text("description", "DP-SGD step")
    'DP-SGD step'
    """
    if not isinstance(value, str):
        raise type_error(name, value, "a string")
    if not value.strip():
        raise value_error(name, value, "a string that is not empty")
    return value


def boolean(name: str, value: Any) -> bool:
    """Checks that a value is true or false.

    Args:
        name: name of the argument.
        value: the value to check.

    Returns:
        The value as a `bool`.

    Raises:
        TypeError: if the value is not a bool.

    Example:
    >>> boolean("normalize", False)
    False
    """
    if not isinstance(value, bool | np.bool_):
        raise type_error(name, value, "True or False")
    return bool(value)


def shape(name: str, value: Any) -> tuple[int, ...]:
    """Checks that a value is the shape of an array that is not empty.

    Args:
        name: name of the argument.
        value: the value to check.

    Returns:
        The value as a tuple.

    Raises:
        TypeError: if the value is not a tuple or list of integers.
        ValueError: if a size is below 1.

    Example:
    >>> shape("input_shape", [28, 28, 1])
    (28, 28, 1)
    """
    if not isinstance(value, tuple | list):
        raise type_error(name, value, "a tuple of integers")
    return tuple(integer(name, size, minimum=1) for size in value)


def path(name: str, value: Any) -> str:
    """Checks that a value is the path of a file or folder.

    Args:
        name: name of the argument.
        value: the value to check.

    Returns:
        The value as a string.

    Raises:
        TypeError: if the value is neither a string nor an `os.PathLike`.
        ValueError: if it is empty.

    Example:
    >>> path("log_dir", "logs")
    'logs'
    """
    if not isinstance(value, str | os.PathLike):
        raise type_error(name, value, "a path")
    return text(name, os.fspath(value))
