"""Canaries that are examples: put among the training data, each by a coin of its own."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from tfdp import _entropy, _validate
from tfdp.auditing import result
from tfdp.auditing.membership import example_losses


def fair_coins(count: int, seed: int | None) -> tuple[np.ndarray, np.random.Generator]:
    """Independent fair coins, and a generator for what else is drawn."""
    random = _entropy.fresh_numpy_generator() if seed is None else np.random.default_rng(seed)
    return random.random(count) < 0.5, random


@dataclasses.dataclass(frozen=True, eq=False)
class InsertedCanaries:
    """Examples of which each is trained on if its coin says so.

    Made by `mislabelled_canaries` and `random_canaries`, or from examples and fair coins of one's
    own.

    Attributes:
        x: Inputs, shape ``(canaries, ...)``.
        y: Classes, shape ``(canaries,)``.
        included: Whether each is to be trained on, shape ``(canaries,)``.

    Raises:
        TypeError: If classes or coins have the wrong type.
        ValueError: If they are not one for each input, or the coins were not fair.

    Example:
        >>> import numpy as np
        >>> coins = np.random.default_rng(0).random(10) < 0.5
        >>> canaries = InsertedCanaries(np.ones((10, 3)), np.zeros(10, "int32"), coins)
        >>> x, y = canaries.insert(np.zeros((50, 3)), np.ones(50, "int32"))
        >>> len(x) - 50 == sum(coins.tolist())
        True
    """

    x: np.ndarray
    y: np.ndarray
    included: np.ndarray

    def __post_init__(self):
        x = inputs("x", self.x, minimum=2)
        object.__setattr__(self, "x", x)
        object.__setattr__(self, "y", result.labels("y", self.y, len(x)))
        object.__setattr__(self, "included", result.coins("included", self.included, len(x)))

    def __len__(self) -> int:
        return len(self.x)

    def insert(self, x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
        """The training data together with the canaries whose coins say so.

        Args:
            x: Inputs, shape ``(examples, ...)``.
            y: Classes, shape ``(examples,)``.

        Returns:
            Inputs and classes, the canaries last: train on these.

        Raises:
            ValueError: If the shape of an input is not that of a canary, or its type cannot hold
                one.
        """
        x = inputs("x", x)
        y = result.labels("y", y, len(x))
        if x.shape[1:] != self.x.shape[1:]:
            raise _validate.value_error(
                "x", f"an array of shape {x.shape}", f"inputs of the shape {self.x.shape[1:]}"
            )
        if not np.can_cast(self.x.dtype, x.dtype, "same_kind"):
            raise _validate.value_error(
                "x", f"an array of {x.dtype}", f"of a type that holds canaries of {self.x.dtype}"
            )
        chosen = self.x[self.included].astype(x.dtype)
        return np.concatenate([x, chosen]), np.concatenate([y, self.y[self.included]])

    def scores(self, model: keras.Model, loss: keras.losses.Loss | None = None) -> np.ndarray:
        """How much each canary looks trained on: for `one_run_audit`.

        Scores of the trained model less those of the same model before training show more: an
        example is suspicious if its loss fell, not if it is low.

        Args:
            model: The model.
            loss: As of `example_losses`. Defaults to ``None``, as there.

        Returns:
            The losses with their sign changed, shape ``(canaries,)``.

        Raises:
            TypeError: If an argument has the wrong type.
        """
        return -example_losses(model, self.x, self.y, loss)


def mislabelled_canaries(
    x: Any, y: Any, count: int, num_classes: int, *, seed: int | None = None
) -> InsertedCanaries:
    """Canaries that are real examples with a wrong class, which nothing but memory explains.

    Args:
        x: Inputs that are not among the training data, shape ``(examples, ...)``.
        y: Their classes, shape ``(examples,)``.
        count: How many canaries, at least 2 and at most the examples; which, is drawn.
        num_classes: Number of classes, at least 2. Each canary gets one of the others.
        seed: Of what is drawn, coins included. Defaults to ``None``: from the operating system.

    Returns:
        `InsertedCanaries`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a number is out of range, or classes are not one for each input.

    Formal guarantee: the coins are fair and independent, of each other and of the examples.

    Example:
        >>> import numpy as np
        >>> x, y = np.zeros((100, 8, 8, 1)), np.arange(100) % 10
        >>> canaries = mislabelled_canaries(x, y, count=20, num_classes=10, seed=0)
        >>> x_train, y_train = canaries.insert(x, y)
        >>> len(x_train) - len(x) == sum(canaries.included.tolist())
        True

    References:
        Steinke, Nasr, Jagielski 2023, "Privacy Auditing with One (1) Training Run",
        arXiv:2305.08846, section 6 on black-box audits.
    """
    x = inputs("x", x, minimum=2)
    y = result.labels("y", y, len(x))
    count = _validate.integer("count", count, minimum=2, maximum=len(x))
    num_classes = _checked_classes(num_classes)
    if y.max() >= num_classes:
        raise _validate.value_error("y", int(y.max()), f"classes below num_classes={num_classes}")
    included, random = fair_coins(count, _checked_seed(seed))
    chosen = random.choice(len(x), count, replace=False)
    wrong = (y[chosen] + random.integers(1, num_classes, count)) % num_classes
    return InsertedCanaries(x[chosen], wrong, included)


def random_canaries(
    input_shape: tuple[int, ...], count: int, num_classes: int, *, seed: int | None = None
) -> InsertedCanaries:
    """Canaries of uniform noise in [0, 1] with a random class.

    Args:
        input_shape: Shape of one input.
        count: How many, at least 2.
        num_classes: Number of classes, at least 2.
        seed: Of what is drawn, coins included. Defaults to ``None``: from the operating system.

    Returns:
        `InsertedCanaries`, float32.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a number is out of range.

    Formal guarantee: the coins are fair and independent, of each other and of the examples.

    Example:
        >>> random_canaries((8, 8, 1), count=20, num_classes=10, seed=0).x.shape
        (20, 8, 8, 1)
    """
    input_shape = _validate.shape("input_shape", input_shape)
    count = _validate.integer("count", count, minimum=2)
    num_classes = _checked_classes(num_classes)
    included, random = fair_coins(count, _checked_seed(seed))
    x = random.random((count, *input_shape), dtype=np.float32)
    return InsertedCanaries(x, random.integers(0, num_classes, count), included)


def inputs(name: str, value: Any, minimum: int = 1) -> np.ndarray:
    """Checks an array of examples."""
    array = result.array_of(name, value)
    if array.dtype.kind not in "biuf":
        raise _validate.type_error(name, value, "an array of numbers")
    if array.ndim == 0 or len(array) < minimum or not array.size:
        raise _validate.value_error(
            name, f"an array of shape {array.shape}", f"an array of {minimum} examples or more"
        )
    return array


def _checked_classes(num_classes: int) -> int:
    return _validate.integer("num_classes", num_classes, minimum=2)


def _checked_seed(seed: int | None) -> int | None:
    return None if seed is None else _validate.integer("seed", seed, minimum=0)
