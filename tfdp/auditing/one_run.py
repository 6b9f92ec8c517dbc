"""Auditing with one training run: many canaries, a coin for each, guesses with abstention."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure, SubFigure

from tfdp import _validate
from tfdp.auditing import result
from tfdp.auditing.guesses import epsilon_from_guesses

#: The fewest guesses that are tried where the caller does not say how many.
_FEWEST = 8


@dataclasses.dataclass(frozen=True)
class Guesses:
    """Guesses about the canaries with the highest and the lowest scores.

    Attributes:
        included: How many were guessed to be included: those of the highest scores.
        excluded: How many were guessed not to be: those of the lowest scores.
        correct: How many of all these were right.
        epsilon: The lower bound that follows, at the corrected confidence.

    Example:
        >>> import numpy as np
        >>> coins = np.arange(200) % 2 == 0
        >>> audit = one_run_audit(coins.astype(float), coins, delta=0.0)  # Scores that tell all.
        >>> audit.best.correct == audit.best.included + audit.best.excluded
        True
    """

    included: int
    excluded: int
    correct: int
    epsilon: float


@dataclasses.dataclass(frozen=True)
class OneRunAudit(result.Result):
    """The result of `one_run_audit`.

    Attributes:
        epsilon_lower_bound: No training with a smaller epsilon at ``delta`` shows so much, at the
            confidence; 0 where nothing was shown.
        delta: The delta.
        confidence: The confidence, over all the guesses together.
        canaries: Number of canaries.
        guesses: What was guessed, and what follows from each.
        claimed_epsilon: What was claimed, or ``None``.
        scores: Of each canary.
        included: Whether each canary was included.

    Example:
        >>> import numpy as np
        >>> coins = np.arange(200) % 2 == 0
        >>> audit = one_run_audit(coins.astype(float), coins, delta=0.0, claimed_epsilon=1.0)
        >>> round(audit.epsilon_lower_bound, 1), audit.contradicts_claim
        (3.8, True)
    """

    epsilon_lower_bound: float
    delta: float
    confidence: float
    canaries: int
    guesses: tuple[Guesses, ...]
    claimed_epsilon: float | None
    scores: tuple[float, ...]
    included: tuple[bool, ...]

    @property
    def best(self) -> Guesses:
        """The guesses that the bound follows from."""
        return max(self.guesses, key=lambda guesses: guesses.epsilon)

    @property
    def contradicts_claim(self) -> bool:
        """Whether what was claimed is refuted."""
        return self.claimed_epsilon is not None and self.epsilon_lower_bound > self.claimed_epsilon

    def __str__(self) -> str:
        best = self.best
        return (
            f"one-run audit: epsilon is at least {self.epsilon_lower_bound:.4g} at delta = "
            f"{self.delta:g} ({self.confidence:.0%} confidence)\n"
            f"  {best.correct} of {best.included + best.excluded} guesses about {self.canaries} "
            "canaries were right\n"
            f"  {result.verdict(self.epsilon_lower_bound, self.claimed_epsilon)}"
        )

    def draw(self, figure: Figure | SubFigure) -> None:
        """Scores of the canaries, and the bound by the number of guesses."""
        left, right = figure.subplots(1, 2)
        scores, included = np.array(self.scores), np.array(self.included)
        edges = np.histogram_bin_edges(scores, bins=40)
        left.hist(scores[included], edges, alpha=0.6, color="tab:red", label="included")
        left.hist(scores[~included], edges, alpha=0.6, color="tab:blue", label="not included")
        left.set(title=f"Scores of {self.canaries} canaries", xlabel="score", ylabel="canaries")
        left.legend(frameon=False)

        tried = sorted((g.included + g.excluded, g.epsilon) for g in self.guesses)
        right.plot(*zip(*tried, strict=True), color="tab:red", marker=".", label="lower bound")
        if self.claimed_epsilon is not None:
            right.axhline(self.claimed_epsilon, color="0.4", linestyle="--", label="claimed")
        right.set(
            xscale="log",
            title=f"Epsilon at delta = {self.delta:g}, {self.confidence:.0%} confidence",
            xlabel="guesses",
        )
        right.set_ylim(bottom=0)
        right.legend(frameon=False)
        for axes in (left, right):
            result.tidy(axes)


def one_run_audit(
    scores: Any,
    included: Any,
    *,
    delta: float,
    guesses: Sequence[tuple[int, int]] | None = None,
    confidence: float = 0.95,
    claimed_epsilon: float | None = None,
) -> OneRunAudit:
    """Bounds epsilon from below by guessing which canaries one training run has seen.

    Each canary must have been included by a fair coin of its own (`InsertedCanaries`,
    `AuditedModel`), and the scores must depend on the coins through what training released alone.
    Canaries with the highest scores are guessed to be included, those with the lowest not to be;
    nothing is guessed about the others.

    Args:
        scores: A number for each canary, shape ``(canaries,)``; higher where it looks included.
        included: Whether each was, shape ``(canaries,)``.
        delta: The delta at which epsilon is bounded, in [0, 1).
        guesses: Pairs ``(included, excluded)``: how many of the highest and of the lowest scores
            to guess about. Several pairs are all tried, and the confidence is corrected for their
            number (Bonferroni). They must be chosen without looking at the scores. Defaults to
            ``None``: about all canaries, half as many, a quarter and so on, half of them each way.
        confidence: Of the bound, in (0, 1). Defaults to 0.95.
        claimed_epsilon: What is claimed, to compare with. Defaults to ``None``: nothing, as
            infinity is.

    Returns:
        A `OneRunAudit`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If scores and coins differ in number, the coins cannot have been fair, there are
            more guesses than canaries, or a number is out of range.

    Formal guarantee: if training is (epsilon, delta)-DP under adding or removing one example, then
    ``epsilon_lower_bound <= epsilon`` with probability at least ``confidence``. A low bound shows
    nothing: another attack may do better. The result is not protected by privacy.

    Example:
        Randomized response at epsilon = 4 tells the coin with probability 0.982:

        >>> import numpy as np
        >>> random = np.random.default_rng(0)
        >>> coins = random.random(2000) < 0.5
        >>> told = np.where(random.random(2000) < 1 / (1 + np.exp(-4)), coins, ~coins)
        >>> audit = one_run_audit(told.astype(float), coins, delta=0.0, claimed_epsilon=4.0)
        >>> 3 < audit.epsilon_lower_bound < 4, audit.contradicts_claim
        (True, False)

    References:
        Steinke, Nasr, Jagielski 2023, "Privacy Auditing with One (1) Training Run",
        arXiv:2305.08846: algorithm 1, section 5.
    """
    scores = result.numbers("scores", scores, minimum=2)
    included = result.coins("included", included, len(scores))
    delta = _validate.probability("delta", delta)
    if delta == 1.0:
        raise _validate.value_error("delta", delta, "below 1")
    confidence = _validate.delta("confidence", confidence)
    claimed_epsilon = result.epsilon_claim("claimed_epsilon", claimed_epsilon)
    pairs = _pairs(guesses, len(scores))

    order = np.argsort(-scores, kind="stable")  # Ties fall by the canaries' numbers, not coins.
    right_if_in = np.concatenate([[0], np.cumsum(included[order])])
    right_if_out = np.concatenate([[0], np.cumsum(~included[order][::-1])])
    each = 1.0 - (1.0 - confidence) / len(pairs)
    made = []
    for high, low in pairs:
        correct = int(right_if_in[high] + right_if_out[low])
        epsilon = epsilon_from_guesses(correct, high + low, len(scores), delta, each)
        made.append(Guesses(high, low, correct, epsilon))
    return OneRunAudit(
        epsilon_lower_bound=max(guess.epsilon for guess in made),
        delta=delta,
        confidence=confidence,
        canaries=len(scores),
        guesses=tuple(made),
        claimed_epsilon=claimed_epsilon,
        scores=tuple(scores.tolist()),
        included=tuple(included.tolist()),
    )


def _pairs(guesses: Sequence[tuple[int, int]] | None, canaries: int) -> list[tuple[int, int]]:
    """How many of the highest and of the lowest scores to guess about."""
    if guesses is None:
        totals = [canaries]
        while totals[-1] // 2 >= _FEWEST:
            totals.append(totals[-1] // 2)
        return [(total - total // 2, total // 2) for total in totals]
    expected = "a list of pairs (included, excluded)"
    if isinstance(guesses, str) or not isinstance(guesses, Sequence):
        raise _validate.type_error("guesses", guesses, expected)
    if not guesses:
        raise _validate.value_error("guesses", guesses, "at least one pair")
    pairs = []
    for pair in guesses:
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise _validate.type_error("guesses", guesses, expected)
        high, low = (_validate.integer("guesses", number, minimum=0) for number in pair)
        if not 1 <= high + low <= canaries:
            raise _validate.value_error("guesses", pair, f"1 to {canaries}, the canaries, together")
        pairs.append((high, low))
    return pairs
