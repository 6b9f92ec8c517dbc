"""How batches are drawn: what the accounting and the privacy statement have to know of it."""

from __future__ import annotations

import dataclasses
from typing import Literal

#: The ways of drawing batches that can be declared.
DECLARABLE = ("poisson", "shuffled", "without_replacement", "full_batch")


@dataclasses.dataclass(frozen=True)
class Scheme:
    """How the batches of training are drawn.

    | kind | a batch is |
    | --- | --- |
    | ``"poisson"`` | every example by an independent coin flip |
    | ``"truncated_poisson"`` | the same, cut to a random ``capacity`` of them if there are more |
    | ``"shuffled"`` | the next ``expected_batch_size`` in a random order, anew each pass |
    | ``"without_replacement"`` | a random subset of fixed size, anew each step |
    | ``"full_batch"`` | every example |
    | ``"unknown"`` | whatever the caller gave |

    Attributes:
        kind: One of the above.
        expected_batch_size: Mean number of examples in a batch.
        num_examples: Number of examples N; ``None`` if unknown.
        capacity: Most examples in a truncated batch.
        shares: Parts of the examples that are sampled each by itself, one for each replica. A
            truncated batch is cut in every one of them.
        steps_per_pass: Steps in which no example of shuffled data appears twice.
        declared: Whether it is the caller's word: tfdp did not draw the batches itself.

    Example:
        >>> scheme = Scheme("poisson", expected_batch_size=20, num_examples=100)
        >>> scheme.sampling_probability, scheme.share_examples
        (0.2, 100)
    """

    kind: Literal[
        "poisson", "truncated_poisson", "shuffled", "without_replacement", "full_batch", "unknown"
    ]
    expected_batch_size: int
    num_examples: int | None = None
    capacity: int | None = None
    shares: int = 1
    steps_per_pass: int = 1
    declared: bool = False

    @property
    def sampling_probability(self) -> float:
        """Chance of each example to be in a batch; 1 if unknown."""
        if self.num_examples is None:
            return 1.0
        return self.expected_batch_size / self.num_examples

    @property
    def share_capacity(self) -> int | None:
        """Most examples of a truncated batch in each share."""
        return None if self.capacity is None else -(-self.capacity // self.shares)

    @property
    def share_examples(self) -> int | None:
        """Examples of the largest share; ``None`` if unknown."""
        return None if self.num_examples is None else -(-self.num_examples // self.shares)

    @property
    def fixed_size(self) -> bool:
        """Whether an example more would displace another one, instead of only being added."""
        return self.kind in ("shuffled", "without_replacement")

    @property
    def in_words(self) -> str:
        """What the privacy statement says."""
        words = {
            "poisson": "Poisson: each example takes part by an independent coin flip",
            "truncated_poisson": (
                f"Poisson, cut to a random {self.share_capacity} examples"
                f"{' of each replica' if self.shares > 1 else ''} where there are more; the cut is "
                "accounted for"
            ),
            "shuffled": f"shuffled: each example once in every pass of {self.steps_per_pass} steps",
            "without_replacement": "a random subset of fixed size, drawn anew for each step",
            "full_batch": "none: every example takes part in every step",
            "unknown": "unknown (batches given by the caller): not amplified",
        }[self.kind]
        return f"{words} (declared by the caller, not checked)" if self.declared else words
