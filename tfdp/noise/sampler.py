"""Draws from the discrete Gaussian: integer arithmetic on random bits of the operating system."""

from __future__ import annotations

import decimal
import math
import secrets

import numpy as np

from tfdp import _entropy, _validate

#: Probabilities are multiples of ``2**-PRECISION``.
PRECISION = 160
_DIGITS = 70  # Of decimal arithmetic; 160 bits are 49 digits.
_WORD = 32


class DiscreteGaussianSampler:
    """The discrete Gaussian on the integers.

    It gives ``x`` a probability in proportion to ``exp(-x^2 / (2 stddev^2))``.

    A table is made once, by the alias method of Walker and Vose in exact integers. A draw takes the
    same few steps whatever comes out: the lowest bits of a random word choose a column, and the
    others are the first bits of a uniform number, which is compared with the column's threshold.
    Where these equal the threshold's own first bits, further ones decide: no bit of it is lost.

    Args:
        stddev: The parameter ``sigma``, positive and at most 4096: what is kept grows with it.
        first_bits: For tests: how many bits of a threshold a word is compared with. Defaults to
            ``None``, all that it has.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range.

    Formal guarantee: the law of a draw is within ``2**-140`` of the discrete Gaussian in total
    variation, if the bits are uniform. Floating-point numbers have no part in it.

    Example:
        >>> draws = DiscreteGaussianSampler(2.0).draw(10_000)
        >>> bool(1.8 < draws.std() < 2.2)
        True

    References:
        - Canonne, Kamath and Steinke 2020, "The Discrete Gaussian for Differential Privacy",
          arXiv:2004.00010.
        - Vose 1991, "A Linear Algorithm for Generating Random Numbers with a Given Distribution".
    """

    def __init__(self, stddev: float, first_bits: int | None = None):
        self.stddev = _validate.positive("stddev", stddev)
        if self.stddev > 4096:
            raise _validate.value_error("stddev", stddev, "at most 4096")
        probabilities = _probabilities(self.stddev)
        self._reach = len(probabilities) // 2
        self._column_bits = len(probabilities).bit_length()
        thresholds, other = _alias_table(probabilities, self._column_bits)
        most = _WORD - self._column_bits
        if first_bits is None:
            first_bits = most
        self._first_bits = _validate.integer("first_bits", first_bits, minimum=1, maximum=most)
        self._last_bits = PRECISION - self._column_bits - self._first_bits
        self._first = np.array([t >> self._last_bits for t in thresholds], np.uint32)
        self._last = [t % 2**self._last_bits for t in thresholds]
        self._other = np.array(other, np.uint32)

    def draw(self, count: int) -> np.ndarray:
        """Independent draws.

        Args:
            count: How many.

        Returns:
            Integers ``(count,)``, int64.

        Raises:
            ValueError: If ``count`` is negative.
        """
        words = _entropy.random_words(_validate.integer("count", count, minimum=0))
        columns = words & np.uint32(2**self._column_bits - 1)
        first = words >> np.uint32(_WORD - self._first_bits)
        thresholds, other = self._first[columns], self._other[columns]
        values = np.where(first < thresholds, columns, other)
        for place in np.flatnonzero(first == thresholds):
            if secrets.randbits(self._last_bits) < self._last[columns[place]]:
                values[place] = columns[place]
        return values.astype(np.int64) - self._reach


def _probabilities(stddev: float) -> list[int]:
    """Those of ``-reach ... reach`` as integers that add up to ``2**PRECISION``."""
    reach = math.ceil(stddev * math.sqrt(2 * PRECISION * math.log(2)))
    with decimal.localcontext() as context:
        context.prec = _DIGITS
        variance = decimal.Decimal(stddev) ** 2
        # exp(-x^2 / 2v), each from the one before: their ratio shrinks by exp(-1 / v) a step.
        ratio, shrink = (-1 / (2 * variance)).exp(), (-1 / variance).exp()
        weights = [decimal.Decimal(1)]
        for _ in range(reach):
            weights.append(weights[-1] * ratio)
            ratio *= shrink
        scale = 2**PRECISION / (2 * sum(weights) - 1)
        half = [int(weight * scale) for weight in weights]
    half[0] = 2**PRECISION - 2 * sum(half[1:])  # What rounding down has left.
    return [*half[:0:-1], *half]


def _alias_table(probabilities: list[int], column_bits: int) -> tuple[list[int], list[int]]:
    """Spreads probabilities over ``2**column_bits`` columns of equal size, two values in each.

    Returns:
        For each column how much of it is its own value, and the value that has the rest.
    """
    columns = 2**column_bits
    size = 2**PRECISION // columns
    own = probabilities + [0] * (columns - len(probabilities))
    other = list(range(columns))
    short = [column for column, part in enumerate(own) if part < size]
    long = [column for column, part in enumerate(own) if part > size]
    while short:  # The parts add up to full columns: while one is short, another is long.
        column, donor = short.pop(), long[-1]
        other[column] = donor
        own[donor] -= size - own[column]
        if own[donor] <= size:
            long.pop()
            if own[donor] < size:
                short.append(donor)
    return own, other
