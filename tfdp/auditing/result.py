"""What the results of all audits have in common, and checks of what they are made from."""

from __future__ import annotations

import abc
import dataclasses
import json
import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from scipy import stats

from tfdp import _validate

#: Coins that are less likely than this were none.
_IMPOSSIBLE = 1e-9


class Result(abc.ABC):
    """Base of the results, which are frozen dataclasses of plain Python values."""

    @abc.abstractmethod
    def draw(self, figure: Figure | SubFigure) -> None:
        """Draws the picture on a figure, or on a part of one."""

    def picture(self) -> Figure:
        """The result as a picture, which is no more protected by privacy than the result is."""
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        self.draw(figure)
        return figure

    def to_dict(self) -> dict[str, Any]:
        """All fields, as JSON can hold them."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """Returns `to_dict` as indented JSON text."""
        return json.dumps(self.to_dict(), indent=2, allow_nan=False)


def numbers(name: str, value: Any, *, minimum: int = 1) -> np.ndarray:
    """Checks a vector of finite numbers.

    Args:
        name: name of the argument.
        value: the value to check: anything that NumPy makes a vector of.
        minimum: how many there must be at least. Defaults to 1.

    Returns:
        A float64 array, shape ``(count,)``.

    Raises:
        TypeError: if they are no numbers.
        ValueError: if they are no vector, too few, or not finite.
    """
    array = array_of(name, value)
    if array.dtype.kind not in "fiu":
        raise _validate.type_error(name, value, "a vector of numbers")
    if array.ndim != 1:
        raise _validate.value_error(name, f"an array of shape {array.shape}", "a vector")
    if len(array) < minimum:
        raise _validate.value_error(name, f"{len(array)} numbers", f"at least {minimum} numbers")
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        bad = array[~np.isfinite(array)][0]
        raise _validate.value_error(name, float(bad), "a vector of finite numbers")
    return array


def coins(name: str, value: Any, count: int) -> np.ndarray:
    """Checks a vector of so many truth values that fair coins can have shown."""
    array = array_of(name, value)
    if array.dtype.kind != "b":
        raise _validate.type_error(name, value, "a vector of True and False")
    if array.shape != (count,):
        raise _validate.value_error(
            name, f"an array of shape {array.shape}", f"a vector of {count}, one for each score"
        )
    if stats.binomtest(int(array.sum()), count).pvalue < _IMPOSSIBLE:
        raise _validate.value_error(
            name, f"{array.sum()} times True of {count}", "what fair coins showed"
        )
    return array


def labels(name: str, value: Any, count: int) -> np.ndarray:
    """Checks a vector of so many class numbers."""
    array = array_of(name, value)
    if array.dtype.kind not in "iu":
        raise _validate.type_error(name, value, "a vector of integers")
    if array.shape != (count,):
        raise _validate.value_error(
            name, f"an array of shape {array.shape}", f"a vector of {count} classes"
        )
    if count and array.min() < 0:
        raise _validate.value_error(name, int(array.min()), "a vector of classes from 0")
    return array.astype(np.int64)


def epsilon_claim(name: str, value: Any) -> float | None:
    """Checks an epsilon that is claimed; ``None``, which infinity becomes, claims nothing."""
    if value is None or _validate.non_negative(name, value, allow_infinity=True) == math.inf:
        return None
    return float(value)


def verdict(bound: float, claim: float | None) -> str:
    """What a lower bound says about a claim."""
    if claim is None:
        return "nothing is claimed"
    if bound > claim:
        return f"CONTRADICTS the claimed epsilon {claim:.4g}"
    return f"does not contradict the claimed epsilon {claim:.4g}"


def tidy(axes: Axes) -> None:
    """The look of all pictures."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def array_of(name: str, value: Any) -> np.ndarray:
    """What NumPy makes of a value."""
    try:
        return np.asarray(value)
    except ValueError as error:  # Rows of different lengths.
        raise _validate.type_error(name, value, "an array") from error
