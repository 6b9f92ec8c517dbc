"""Planning by the total amount of noise: which runs cost the same budget, and how to tune them.

The privacy of DP-SGD depends, while noise is large enough, on one number: the signal-to-noise
ratio ``eta`` of a whole run. Runs of equal ``eta`` can be traded for each other, and a run with a
small batch and equally smaller noise trains alike at a fraction of the compute.

References:
    Sander, Stock, Sablayrolles 2023, "TAN Without a Burn: Scaling Laws of DP-SGD",
    arXiv:2210.03403.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import warnings
from collections.abc import Sequence
from typing import Any

from tfdp import _validate, accounting
from tfdp.accounting import guarantees

#: Below, subsampling amplifies no longer, and epsilon explodes whatever ``eta`` is.
WALL = 0.5
#: Noise multipliers at which epsilon is near its limit and compute is not wasted.
SWEET_SPOT = (2.0, 4.0)


def eta(noise_multiplier: float, sampling_probability: float, steps: int) -> float:
    """Returns the signal-to-noise ratio of a run: the inverse of its total amount of noise.

    Args:
        noise_multiplier: Standard deviation of the noise over the clip norm, 0 or above.
        sampling_probability: Expected batch size over the number of examples, in [0, 1].
        steps: Number of optimizer steps, 0 or above.

    Returns:
        ``q * sqrt(steps / 2) / noise_multiplier``; infinite without noise.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range.

    Example:
        >>> round(eta(2.5, 32_768 / 1_281_167, 18_000), 3)
        0.971

    References:
        - Sander, Stock, Sablayrolles 2023, arXiv:2210.03403.
    """
    sigma = _validate.non_negative("noise_multiplier", noise_multiplier)
    q = _validate.probability("sampling_probability", sampling_probability)
    signal = q * math.sqrt(_validate.integer("steps", steps, minimum=0) / 2)
    if sigma == 0:
        return math.inf if signal else 0.0
    return signal / sigma


def epsilon_tan(eta: float, delta: float) -> float:
    """Returns the epsilon that `eta` points to. It guides a search; never report it.

    It is above what PLD accounting proves by 10 to 25 percent where noise is large, and below it
    by any factor where noise is small.

    Args:
        eta: As of `tfdp.tan.eta`, 0 or above.
        delta: In (0, 1).

    Returns:
        ``eta^2 + 2 * eta * sqrt(log(1 / delta))`` (equation 4).

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range.

    Example:
        >>> round(epsilon_tan(0.95, 1e-5), 2)
        7.35

    References:
        - Sander, Stock, Sablayrolles 2023, arXiv:2210.03403.
    """
    eta = _validate.non_negative("eta", eta, allow_infinity=True)
    return eta**2 + 2 * eta * math.sqrt(math.log(1 / _validate.delta("delta", delta)))


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of DP-SGD, as a point that can be moved along lines of equal budget.

    | method | batch size | noise multiplier | steps | learning rate | keeps |
    | --- | --- | --- | --- | --- | --- |
    | `at_batch_size(b)` | b | in proportion | | | accuracy, nearly; not the budget |
    | `double()`, `halve()` | 2, 1/2 | 2, 1/2 | | | eta |
    | `trade_steps(f)` | 1 / sqrt(f) | | f | 1 / f | eta |

    Attributes:
        num_examples: Number of training examples N.
        batch_size: Expected batch size B, in [1, N].
        noise_multiplier: Standard deviation of the noise over the clip norm, positive.
        steps: Number of optimizer steps S, positive.
        learning_rate: Learning rate, positive.
        delta: Delta of the guarantee, in (0, 1).

    Raises:
        TypeError: If an attribute has the wrong type.
        ValueError: If one is out of range.

    Formal guarantee: none by itself. `epsilon` is that of one private training with these
    numbers, whose Poisson samples are drawn with probability B / N.

    Example:
        >>> run = Run(1_281_167, 32_768, 2.5, 18_000, learning_rate=32.0, delta=8e-7)
        >>> round(run.epsilon("rdp"), 2), run.at_batch_size(256).noise_multiplier
        (7.98, 0.01953125)
    """

    num_examples: int
    batch_size: int
    noise_multiplier: float
    steps: int
    learning_rate: float
    delta: float

    def __post_init__(self):
        size = _validate.integer("num_examples", self.num_examples, minimum=1)
        _validate.integer("batch_size", self.batch_size, minimum=1, maximum=size)
        _validate.positive("noise_multiplier", self.noise_multiplier)
        _validate.integer("steps", self.steps, minimum=1)
        _validate.positive("learning_rate", self.learning_rate)
        _validate.delta("delta", self.delta)

    @property
    def sampling_probability(self) -> float:
        """Chance of each example to be in a batch, q."""
        return self.batch_size / self.num_examples

    @property
    def epochs(self) -> float:
        """Expected number of passes over the data."""
        return self.steps * self.sampling_probability

    @property
    def examples_processed(self) -> int:
        """Gradients of single examples that are worked out: the compute."""
        return self.steps * self.batch_size

    @property
    def eta(self) -> float:
        """Signal-to-noise ratio of the run."""
        return eta(self.noise_multiplier, self.sampling_probability, self.steps)

    @property
    def epsilon_tan(self) -> float:
        """What `eta` points to; not a guarantee."""
        return epsilon_tan(self.eta, self.delta)

    def epsilon(self, accountant: str = "rdp") -> float:
        """Epsilon of the run at its ``delta``, by ``"rdp"`` or ``"pld"``."""
        return accounting.epsilon(
            self.noise_multiplier, self.sampling_probability, self.steps, self.delta, accountant
        )

    @property
    def verdict(self) -> str:
        """Where the noise stands to the privacy wall, and what to do."""
        low, high = SWEET_SPOT
        if self.noise_multiplier < WALL:
            return "behind the privacy wall: epsilon says nothing; only for simulation"
        if self.noise_multiplier < low:
            return "at the privacy wall: double batch and noise for a smaller epsilon"
        if self.noise_multiplier <= high:
            return "good"
        return "more compute than needed: halve batch and noise for the same epsilon, nearly"

    def at_batch_size(self, batch_size: int) -> Run:
        """The run that simulates this one: noise per example, steps and rate kept.

        At a smaller batch size it is *not private*, and only for finding hyper-parameters.

        Args:
            batch_size: In [1, N].
        """
        size = _validate.integer("batch_size", batch_size, minimum=1, maximum=self.num_examples)
        sigma = self.noise_multiplier * (size / self.batch_size)
        return dataclasses.replace(self, batch_size=batch_size, noise_multiplier=sigma)

    def trade_steps(self, factor: float) -> Run:
        """As many times the steps at equal `eta`: batch by 1 / sqrt(factor), rate by 1 / factor.

        Args:
            factor: Positive. Steps and batch size are rounded.

        Raises:
            ValueError: If the batch size would leave [1, N] or the steps fall below 1.
        """
        factor = _validate.positive("factor", factor)
        return dataclasses.replace(
            self,
            batch_size=round(self.batch_size / math.sqrt(factor)),
            steps=round(self.steps * factor),
            learning_rate=self.learning_rate / factor,
        )

    def double(self) -> Run:
        """Twice the batch and the noise: twice the compute, and an epsilon nearer to its limit.

        Raises:
            ValueError: If the batch size would exceed N.
        """
        return self.at_batch_size(2 * self.batch_size)

    def halve(self) -> Run:
        """Half the batch and the noise: half the compute; good where noise is far above 2.

        Raises:
            ValueError: If the batch size is 1.
        """
        return self.at_batch_size(self.batch_size // 2)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Runs of equal budget. Made by `plan`.

    Attributes:
        target_epsilon: The budget.
        accountant: Which accounting keeps it.
        runs: The family, by steps and then by noise. All stay within the budget.
        recommended: One of them.
        simulation: How to tune it: the recommended run at a small batch size. Not private.

    Example:
        >>> found = plan(3.0, 1e-5, 60_000, max_batch_size=4096, noise_multipliers=[2.5])
        >>> found.recommended in found.runs, found.recommended.noise_multiplier
        (True, 2.5)
    """

    target_epsilon: float
    accountant: str
    runs: tuple[Run, ...]
    recommended: Run
    simulation: Run

    @property
    def compute_saved(self) -> float:
        """How many simulations cost as much compute as the recommended run."""
        return self.recommended.examples_processed / self.simulation.examples_processed

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON can hold it."""
        return {
            "target_epsilon": self.target_epsilon,
            "accountant": self.accountant,
            "delta": self.recommended.delta,
            "num_examples": self.recommended.num_examples,
            "runs": [
                {**_summary(run), "recommended": run == self.recommended} for run in self.runs
            ],
            "simulation": {
                **dataclasses.asdict(self.simulation),
                "private": False,
                "examples_processed": self.simulation.examples_processed,
            },
            "compute_saved": self.compute_saved,
        }

    def to_json(self) -> str:
        """`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=2)

    def __str__(self) -> str:
        run, small = self.recommended, self.simulation
        lines = [
            f"epsilon {self.target_epsilon:g} ({self.accountant.upper()}) at delta {run.delta:g}, "
            f"{run.num_examples:,} examples",
            "",
            f"   {'batch':>9} {'noise':>6} {'steps':>9} {'rate':>8} {'epochs':>7} "
            f"{'examples':>10} {'RDP':>6} {'PLD':>6} {'TAN*':>6}",
        ]
        for other in self.runs:
            row = _summary(other)
            lines.append(
                f"{'->' if other == run else '  '} {row['batch_size']:>9,} "
                f"{row['noise_multiplier']:>6.3g} {row['steps']:>9,} {row['learning_rate']:>8.3g} "
                f"{row['epochs']:>7.1f} {row['examples_processed']:>10.2e} "
                f"{row['epsilon_rdp']:>6.2f} {row['epsilon_pld']:>6.2f} {row['epsilon_tan']:>6.2f}"
                + ("" if row["verdict"] == "good" else f"  {row['verdict']}")
            )
        lines += [
            "",
            "-> recommended. * what the total amount of noise points to: not a guarantee.",
            f"Simulate it, not privately, at batch {small.batch_size:,} with noise "
            f"{small.noise_multiplier:.4g}, the same steps and rate: 1/{self.compute_saved:.0f} of "
            "the compute.",
        ]
        return "\n".join(lines)

    def draw(self, path: str) -> None:
        """Writes a picture: epsilon against noise at constant eta, and what steps trade for."""
        from matplotlib.figure import Figure  # Slow to import, and few who import tfdp need it.

        figure = Figure(figsize=(11, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        _draw_wall(left, self.recommended)
        _draw_trade(right, self)
        figure.savefig(path, dpi=150)


def plan(
    target_epsilon: float,
    delta: float,
    num_examples: int,
    *,
    max_batch_size: int | None = None,
    compute_budget: int | None = None,
    learning_rate: float = 1.0,
    simulate_at: int | None = None,
    noise_multipliers: Sequence[float] = (1.0, 2.0, 2.5, 3.0, 4.0, 8.0),
    accountant: str = "rdp",
) -> Plan:
    """Lists runs of equal budget and picks one.

    The steps are those that the largest batch allows at a noise multiplier of 2.5, and 4 and 16
    times as many with half and a quarter of the batch. At each number of steps the batch is the
    largest that stays within the budget with each of the noise multipliers; runs whose batch would
    exceed ``max_batch_size`` are left out.

    Recommended is the largest batch, which needs the fewest steps and so the least compute at its
    noise: 2.5 if the compute budget allows, else 2, both in the range where noise is well spent.

    Args:
        target_epsilon: Budget, positive.
        delta: In (0, 1). One above one over the number of examples makes a `UserWarning`.
        num_examples: Number of training examples N.
        max_batch_size: Largest expected batch. Defaults to the largest power of two that is at
            most N / 12 and 32,768.
        compute_budget: Most gradients of single examples of a run. Defaults to ``None``: any.
        learning_rate: That of the fewest steps; falls in proportion as steps grow. Defaults to 1:
            find it with the simulation.
        simulate_at: Batch size of the simulation. Defaults to 1/64 of the recommended one.
        noise_multipliers: Positive. Defaults to six from 1 to 8.
        accountant: ``"rdp"`` or ``"pld"``, which keeps the budget. Defaults to ``"rdp"``.

    Returns:
        A `Plan`: print it, ``.to_json()``, ``.draw(path)``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, or no run fits the budgets.

    Example:
        >>> run = plan(8.0, 5e-7, 1_281_167, noise_multipliers=[2.5]).recommended
        >>> run.batch_size, run.noise_multiplier, run.steps
        (32768, 2.5, 17558)

    Formal guarantee: the epsilon of each run at ``delta``, by ``accountant``, is at most
    ``target_epsilon`` for one private training with its numbers on Poisson samples. What planning
    and simulations look at is not covered.

    References:
        - Sander, Stock, Sablayrolles 2023, arXiv:2210.03403.
    """
    target = _validate.positive("target_epsilon", target_epsilon)
    delta = _validate.delta("delta", delta)
    size = _validate.integer("num_examples", num_examples, minimum=1)
    if message := guarantees.large_delta(delta, size):
        warnings.warn(message, UserWarning, stacklevel=2)
    if max_batch_size is None:
        max_batch_size = 2 ** int(math.log2(min(32_768, max(1, size // 12))))
    largest = _validate.integer("max_batch_size", max_batch_size, minimum=1, maximum=size)
    if compute_budget is not None:
        _validate.integer("compute_budget", compute_budget, minimum=1)
    rate = _validate.positive("learning_rate", learning_rate)
    accountant = _validate.one_of("accountant", accountant, ("rdp", "pld"))
    if not isinstance(noise_multipliers, Sequence) or not noise_multipliers:
        raise _validate.value_error("noise_multipliers", noise_multipliers, "several numbers")
    sigmas = [_validate.positive("noise_multipliers", sigma) for sigma in noise_multipliers]

    def most_steps(sigma: float) -> int:
        return accounting.steps(target, sigma, largest / size, delta, accountant)

    best = 2.5
    if compute_budget is not None and largest * most_steps(best) > compute_budget:
        best = SWEET_SPOT[0]
    fewest = most_steps(best)
    if fewest < 1:
        raise ValueError(
            f"Not one step with a batch of {largest} and noise {best} stays within the budget. "
            f"Received: target_epsilon={target_epsilon}"
        )
    recommended = Run(size, largest, best, fewest, rate, delta)
    if compute_budget is not None and recommended.examples_processed > compute_budget:
        raise ValueError(
            f"The run of least compute, {largest:,} examples a step for {fewest:,} steps, "
            f"processes {recommended.examples_processed:,} examples: allow a larger "
            f"`max_batch_size`. Received: compute_budget={compute_budget}"
        )
    runs = [recommended]
    for factor in (1, 4, 16):
        for sigma in sigmas:
            if factor == 1 and sigma == best:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # Of delta; it was given above.
                batch = accounting.batch_size(
                    target, sigma, factor * fewest, size, delta, accountant
                )
            if 1 <= batch <= largest:
                runs.append(Run(size, batch, sigma, factor * fewest, rate / factor, delta))
    if simulate_at is None:
        simulate_at = max(1, largest // 64)
    simulate_at = _validate.integer("simulate_at", simulate_at, minimum=1, maximum=largest)
    return Plan(
        target_epsilon=target,
        accountant=accountant,
        runs=tuple(sorted(runs, key=lambda run: (run.steps, run.noise_multiplier))),
        recommended=recommended,
        simulation=recommended.at_batch_size(simulate_at),
    )


@functools.lru_cache(maxsize=1024)
def _summary(run: Run) -> dict[str, Any]:
    return {
        "batch_size": run.batch_size,
        "noise_multiplier": run.noise_multiplier,
        "steps": run.steps,
        "learning_rate": run.learning_rate,
        "epochs": run.epochs,
        "examples_processed": run.examples_processed,
        "epsilon_rdp": run.epsilon("rdp"),
        "epsilon_pld": run.epsilon("pld"),
        "epsilon_tan": run.epsilon_tan,
        "verdict": run.verdict,
    }


def _draw_wall(axes, run: Run) -> None:
    """Epsilon against noise at the eta and the steps of a run (figure 2 of the paper)."""
    from matplotlib.ticker import LogLocator

    sigmas = (0.4, 0.5, 0.6, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
    rates = {s: run.sampling_probability * s / run.noise_multiplier for s in sigmas}
    sigmas = [s for s in sigmas if rates[s] <= 1]
    for accountant, color in (("rdp", "C0"), ("pld", "C1")):
        found = [accounting.epsilon(s, rates[s], run.steps, run.delta, accountant) for s in sigmas]
        axes.plot(sigmas, found, "o-", color=color, label=f"ε by {accountant.upper()}", ms=3)
    axes.axhline(run.epsilon_tan, color="gray", ls=":", label="ε that TAN points to: no guarantee")
    axes.axvspan(*SWEET_SPOT, color="C2", alpha=0.15, label="noise of 2 to 4")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="noise multiplier (batch in proportion)",
        ylabel=f"ε at δ = {run.delta:g}",
        title=f"The privacy wall: η = {run.eta:.3g}, {run.steps:,} steps",
    )
    axes.set_xticks(sigmas, [f"{sigma:g}" for sigma in sigmas])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _draw_trade(axes, found: Plan) -> None:
    """Batch and compute against steps, by noise."""
    from matplotlib.ticker import EngFormatter

    for sigma in sorted({run.noise_multiplier for run in found.runs}):
        line = [run for run in found.runs if run.noise_multiplier == sigma]
        steps = [run.steps for run in line]
        (drawn,) = axes.plot(steps, [run.batch_size for run in line], "o-", label=f"σ = {sigma:g}")
        for run in line:
            axes.annotate(
                EngFormatter(places=1, sep="")(run.examples_processed),
                (run.steps, run.batch_size),
                xytext=(-6, -4),
                textcoords="offset points",
                ha="right",
                va="top",
                fontsize=7,
                color=drawn.get_color(),
            )
    best = found.recommended
    axes.plot([best.steps], [best.batch_size], "*", color="black", ms=14, label="recommended")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="steps",
        ylabel="expected batch size (small: examples processed)",
        title=f"Equal budgets: ε = {found.target_epsilon:g}",
    )
    for axis, counts in (
        (axes.xaxis, {run.steps for run in found.runs}),
        (axes.yaxis, {2**k for k in range(32)}),
    ):
        low, high = axis.get_view_interval()
        ticks = sorted(count for count in counts if low <= count <= high)
        axis.set_ticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.minorticks_off()
    axes.margins(x=0.15)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
