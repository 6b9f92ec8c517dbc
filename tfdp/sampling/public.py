"""Data that need no protection."""

from __future__ import annotations

from typing import Any

from tfdp.sampling.rows import ArrayRows


class PublicData:
    """Examples that need no protection. Made by `public`.

    Example:
        >>> import numpy as np, tfdp
        >>> data = tfdp.sampling.public(np.zeros((50, 3)), np.zeros(50))
        >>> x, y, sample_weight = data.examples()
        >>> x.shape, sample_weight
        (TensorShape([50, 3]), None)
    """

    def __init__(self, x: Any, y: Any, sample_weight: Any):
        self.rows = ArrayRows((x, y, sample_weight))
        self.num_examples = len(self.rows)

    def __len__(self) -> int:
        return self.num_examples

    def examples(self) -> tuple:
        """All examples, ``(x, y, sample_weight)``."""
        return self.rows.first(self.num_examples)


def public(x: Any, y: Any = None, sample_weight: Any = None) -> PublicData:
    """Declares data public: nothing that is computed from them is charged.

    Args:
        x: Array, or nested arrays, with a common first axis.
        y: Targets in the same forms. Defaults to ``None``.
        sample_weight: Weights in the same forms. Defaults to ``None``.

    Returns:
        What callbacks take as public data.

    Raises:
        ValueError: If the arrays are empty, not numeric, or differ in length.

    Formal guarantee: none for these data. They must not have been chosen, labelled or cleaned with
    the help of private data, and no one's privacy may depend on them.

    Example:
        >>> import numpy as np, tfdp
        >>> len(tfdp.sampling.public(np.zeros((50, 3)), np.zeros(50)))
        50
    """
    return PublicData(x, y, sample_weight)
