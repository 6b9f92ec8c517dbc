"""Auditing with many runs: the same training with and without one example, over and over."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import dp_accounting
import numpy as np
from matplotlib.figure import Figure, SubFigure
from scipy import stats

from tfdp import _validate
from tfdp.auditing import result


@dataclasses.dataclass(frozen=True)
class ThresholdTest:
    """A test that says "with the example" where the score is above a threshold.

    The threshold was chosen on other runs than those it is judged by.

    Attributes:
        threshold: The threshold.
        false_positive_rate: Share of the runs without the example that are above it.
        false_negative_rate: Share of the runs with the example that are not.
        false_positive_rate_upper: Upper confidence bound on the former.
        false_negative_rate_upper: Upper confidence bound on the latter. Both bounds hold together
            at the confidence of the audit.

    Example:
        >>> import numpy as np
        >>> random = np.random.default_rng(0)
        >>> with_it, without_it = random.normal(4, 1, 500), random.normal(0, 1, 500)
        >>> audit = repeated_runs_audit(with_it, without_it, delta=1e-5)
        >>> audit.test.false_negative_rate_upper > audit.test.false_negative_rate
        True
    """

    threshold: float
    false_positive_rate: float
    false_negative_rate: float
    false_positive_rate_upper: float
    false_negative_rate_upper: float


@dataclasses.dataclass(frozen=True)
class RepeatedRunsAudit(result.Result):
    """The result of `repeated_runs_audit`.

    Attributes:
        epsilon_lower_bound: No training with a smaller epsilon at ``delta`` shows so much, at the
            confidence; 0 where nothing was shown.
        test: The test that it follows from.
        mu_lower_bound: The same for the mu of Gaussian differential privacy.
        gaussian_test: The test that it follows from.
        gaussian_epsilon_lower_bound: The epsilon at ``delta`` that a mechanism with that mu has. A
            bound for mechanisms alone whose trade-off curve is a Gaussian one.
        delta: The delta.
        confidence: The confidence of each of the two bounds by itself.
        claimed_epsilon: What was claimed, or ``None``.
        scores_with: Of the runs with the example.
        scores_without: Of those without it.

    Example:
        >>> import numpy as np
        >>> random = np.random.default_rng(0)
        >>> with_it, without_it = random.normal(4, 1, 500), random.normal(0, 1, 500)
        >>> audit = repeated_runs_audit(with_it, without_it, delta=1e-5, claimed_epsilon=1.0)
        >>> audit.contradicts_claim
        True
    """

    epsilon_lower_bound: float
    test: ThresholdTest
    mu_lower_bound: float
    gaussian_test: ThresholdTest
    gaussian_epsilon_lower_bound: float
    delta: float
    confidence: float
    claimed_epsilon: float | None
    scores_with: tuple[float, ...]
    scores_without: tuple[float, ...]

    @property
    def contradicts_claim(self) -> bool:
        """Whether what was claimed is refuted, by the bound that assumes nothing."""
        return self.claimed_epsilon is not None and self.epsilon_lower_bound > self.claimed_epsilon

    def __str__(self) -> str:
        return (
            f"audit by {len(self.scores_with)} runs with an example and "
            f"{len(self.scores_without)} without: epsilon is at least "
            f"{self.epsilon_lower_bound:.4g} at delta = {self.delta:g} "
            f"({self.confidence:.0%} confidence)\n"
            f"  {result.verdict(self.epsilon_lower_bound, self.claimed_epsilon)}\n"
            f"  if the mechanism is Gaussian: mu at least {self.mu_lower_bound:.4g}, epsilon at "
            f"least {self.gaussian_epsilon_lower_bound:.4g}"
        )

    def draw(self, figure: Figure | SubFigure) -> None:
        """Scores of the runs, and their trade-off of errors."""
        left, right = figure.subplots(1, 2)
        present, absent = np.array(self.scores_with), np.array(self.scores_without)
        edges = np.histogram_bin_edges(np.concatenate([present, absent]), bins=40)
        left.hist(present, edges, alpha=0.6, density=True, color="tab:red", label="with")
        left.hist(absent, edges, alpha=0.6, density=True, color="tab:blue", label="without")
        left.axvline(self.test.threshold, color="0.4", linestyle="--", linewidth=1)
        left.set(title="Scores with and without the example", xlabel="score", ylabel="density")
        left.legend(frameon=False)

        _, false_positives, false_negatives = _errors(present, absent)
        right.step(
            false_positives / len(absent),
            false_negatives / len(present),
            color="tab:red",
            label="all runs",
        )
        rates = np.linspace(0, 1, 400)
        for epsilon, style, label in (
            (self.epsilon_lower_bound, "-", "lower bound"),
            (self.claimed_epsilon, "--", "claimed"),
        ):
            if epsilon is not None:
                right.plot(
                    rates,
                    _trade_off(rates, epsilon, self.delta),
                    color="0.4",
                    linestyle=style,
                    linewidth=1,
                    label=f"{label}: epsilon {epsilon:.3g}",
                )
        right.set(
            title=f"Errors, delta = {self.delta:g}",
            xlabel="false positive rate",
            ylabel="false negative rate",
        )
        right.legend(frameon=False)
        for axes in (left, right):
            result.tidy(axes)


def repeated_runs_audit(
    scores_with: Any,
    scores_without: Any,
    *,
    delta: float,
    confidence: float = 0.95,
    claimed_epsilon: float | None = None,
) -> RepeatedRunsAudit:
    """Bounds epsilon from below by telling runs with an example from runs without it.

    Every second run of each kind chooses the threshold on the score; the others judge it, by
    Clopper-Pearson bounds on both error rates.

    Args:
        scores_with: Scores of independent runs with the example, four or more, higher where it
            looks present; shape ``(runs,)``.
        scores_without: Scores of independent runs without it, four or more.
        delta: The delta at which epsilon is bounded, in (0, 1).
        confidence: Of each bound, in (0, 1). Defaults to 0.95.
        claimed_epsilon: What is claimed, to compare with. Defaults to ``None``: nothing, as
            infinity is.

    Returns:
        A `RepeatedRunsAudit`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If there are too few runs, or a number is out of range.

    Formal guarantee: if training is (epsilon, delta)-DP, then ``epsilon_lower_bound <= epsilon``
    with probability at least ``confidence``; if it is mu-GDP, ``mu_lower_bound <= mu`` likewise.
    By (epsilon, delta)-DP the error rates of every test fulfil ``FPR + e^epsilon FNR >= 1 - delta``
    and ``FNR + e^epsilon FPR >= 1 - delta``; by mu-GDP ``Phi^-1(1 - FPR) - Phi^-1(FNR) <= mu``.
    What n runs can show is limited, to about ``log(n / 7)`` without the Gaussian assumption. The
    result is not protected by privacy.

    Example:
        The Gaussian mechanism with mu = 1 / noise_multiplier = 2:

        >>> import numpy as np
        >>> random = np.random.default_rng(0)
        >>> present, absent = random.normal(2, 1, 4000), random.normal(0, 1, 4000)
        >>> audit = repeated_runs_audit(present, absent, delta=1e-5)
        >>> 1.8 < audit.mu_lower_bound < 2
        True

    References:
        - Jagielski, Ullman, Oprea 2020, "Auditing Differentially Private Machine Learning",
          arXiv:2006.07709, section 3: bounds by Clopper-Pearson.
        - Kairouz, Oh, Viswanath 2015, "The Composition Theorem for Differential Privacy",
          arXiv:1311.0776, theorem 2.1: error rates of private mechanisms.
        - Nasr et al. 2023, "Tight Auditing of Differentially Private Machine Learning",
          arXiv:2302.07956, section 4: bounds by Gaussian differential privacy.
        - Dong, Roth, Su 2019, "Gaussian Differential Privacy", arXiv:1905.02383.
    """
    present = result.numbers("scores_with", scores_with, minimum=4)
    absent = result.numbers("scores_without", scores_without, minimum=4)
    delta = _validate.delta("delta", delta)
    confidence = _validate.delta("confidence", confidence)
    claimed_epsilon = result.epsilon_claim("claimed_epsilon", claimed_epsilon)

    def best(bound: Callable) -> tuple[float, ThresholdTest]:
        """The bound that the second half of the runs gives for the first half's threshold."""
        thresholds, *errors = _errors(present[::2], absent[::2])
        uppers = _uppers(*errors, len(absent[::2]), len(present[::2]), confidence)
        test = _judge(thresholds[np.argmax(bound(*uppers))], present, absent, confidence)
        found = bound(test.false_positive_rate_upper, test.false_negative_rate_upper)
        return float(max(0.0, found)), test

    epsilon, test = best(lambda fpr, fnr: _epsilon(fpr, fnr, delta))
    mu, gaussian_test = best(lambda fpr, fnr: -stats.norm.ppf(fpr) - stats.norm.ppf(fnr))
    return RepeatedRunsAudit(
        epsilon_lower_bound=epsilon,
        test=test,
        mu_lower_bound=mu,
        gaussian_test=gaussian_test,
        gaussian_epsilon_lower_bound=_epsilon_of_mu(mu, delta),
        delta=delta,
        confidence=confidence,
        claimed_epsilon=claimed_epsilon,
        scores_with=tuple(present.tolist()),
        scores_without=tuple(absent.tolist()),
    )


def scores_of_runs(
    train: Callable[[bool], float], runs: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Trains with and without an example in turn, and collects the scores.

    Args:
        train: ``(with_example) -> score``: trains once from the beginning, with fresh randomness,
            and says how much the result looks as if the example had been there.
        runs: How many runs of each kind, at least 1.

    Returns:
        The scores with and those without the example.

    Raises:
        TypeError: If ``train`` is no function, or its score no number.
        ValueError: If ``runs`` is out of range, or a score is not finite.

    Example:
        >>> import numpy as np
        >>> random = np.random.default_rng(0)
        >>> present, absent = scores_of_runs(lambda there: random.normal(4 * there), runs=500)
        >>> round(repeated_runs_audit(present, absent, delta=1e-5).epsilon_lower_bound, 1)
        3.4
    """
    if not callable(train):
        raise _validate.type_error("train", train, "a function (with_example) -> score")
    runs = _validate.integer("runs", runs, minimum=1)
    pairs = []
    for _ in range(runs):
        # In turn, so that nothing that changes with time looks like the example.
        pairs.append([_validate.real("score of train", train(there)) for there in (True, False)])
    present, absent = zip(*pairs, strict=True)
    return present, absent


def _errors(present: np.ndarray, absent: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All thresholds that differ, and the numbers of false positives and negatives of each."""
    scores = np.unique(np.concatenate([present, absent]))
    thresholds = np.concatenate([[scores[0] - 1], (scores[1:] + scores[:-1]) / 2, [scores[-1] + 1]])
    false_positives = len(absent) - np.searchsorted(np.sort(absent), thresholds, side="right")
    false_negatives = np.searchsorted(np.sort(present), thresholds, side="right")
    return thresholds, false_positives, false_negatives


def _uppers(
    false_positives: Any, false_negatives: Any, absent: int, present: int, confidence: float
) -> tuple[Any, Any]:
    """Clopper-Pearson upper bounds on both rates, which hold together at the confidence."""
    level = 1 - (1 - confidence) / 2
    return tuple(
        np.where(
            np.less(count, total),
            stats.beta.ppf(level, np.add(count, 1), np.maximum(np.subtract(total, count), 1)),
            1.0,
        )
        for count, total in ((false_positives, absent), (false_negatives, present))
    )


def _judge(
    threshold: float, present: np.ndarray, absent: np.ndarray, confidence: float
) -> ThresholdTest:
    """The test with a threshold, by the runs that did not choose it."""
    present, absent = present[1::2], absent[1::2]
    false_positives, false_negatives = (absent > threshold).sum(), (present <= threshold).sum()
    fpr_upper, fnr_upper = _uppers(
        false_positives, false_negatives, len(absent), len(present), confidence
    )
    return ThresholdTest(
        threshold=float(threshold),
        false_positive_rate=float(false_positives / len(absent)),
        false_negative_rate=float(false_negatives / len(present)),
        false_positive_rate_upper=float(fpr_upper),
        false_negative_rate_upper=float(fnr_upper),
    )


def _epsilon(fpr: Any, fnr: Any, delta: float) -> Any:
    """The least epsilon that allows such error rates, which are not 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        one = np.log(np.maximum(1 - delta - fpr, 0) / fnr)
        other = np.log(np.maximum(1 - delta - fnr, 0) / fpr)
    return np.maximum(one, other)


def _epsilon_of_mu(mu: float, delta: float) -> float:
    """Epsilon at delta of the Gaussian mechanism whose noise multiplier is 1 / mu."""
    return 0.0 if mu == 0 else float(dp_accounting.get_epsilon_gaussian(1 / mu, delta))


def _trade_off(fpr: np.ndarray, epsilon: float, delta: float) -> np.ndarray:
    """The least false negative rate that (epsilon, delta)-DP allows at a false positive rate."""
    return np.maximum.reduce(
        [
            np.zeros_like(fpr),
            1 - delta - math.exp(epsilon) * fpr,
            math.exp(-epsilon) * (1 - delta - fpr),
        ]
    )
