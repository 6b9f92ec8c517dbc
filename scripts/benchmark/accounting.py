"""Times the accounting: epsilon of long runs, calibration, and epsilon after every step.

    python scripts/benchmark/accounting.py

Prints the median and the range of several runs of each, in seconds.
"""

import statistics
import time
from collections.abc import Callable

from tfdp import accounting

DELTA = 1e-5
RUNS = 5


def after_every_step(steps: int) -> None:
    """What a training loop asks of its ledger."""
    ledger, step = accounting.PrivacyLedger(), accounting.dp_sgd_event(1.0, 0.01)
    for _ in range(steps):
        ledger.charge(step)
        ledger.epsilon(DELTA)
        ledger.remaining_steps(step, 8.0, DELTA)


CASES: dict[str, Callable[[], object]] = {
    "epsilon of 100,000 steps, RDP": lambda: accounting.epsilon(1.01, 0.0101, 100_000, DELTA),
    "epsilon of 100,000 steps, PLD": lambda: accounting.epsilon(
        1.01, 0.0101, 100_000, DELTA, "pld"
    ),
    "noise for epsilon 4, 3,000 steps, RDP": lambda: accounting.noise_multiplier(
        4.0, 0.01, 3000, DELTA
    ),
    "noise for epsilon 4, 3,000 steps, PLD": lambda: accounting.noise_multiplier(
        4.0, 0.01, 3000, DELTA, "pld"
    ),
    "noise for epsilon 0.1, 100,000 steps, PLD": lambda: accounting.noise_multiplier(
        0.1, 1e-4, 100_000, DELTA, "pld"
    ),
    "epsilon and steps left after each of 200 steps, RDP": lambda: after_every_step(200),
}


def main() -> None:
    """Times all cases, one after another in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(RUNS):
        for name, case in CASES.items():
            start = time.perf_counter()
            case()
            seconds[name].append(time.perf_counter() - start)
    for name, values in seconds.items():
        spread = f"{min(values):.2f} to {max(values):.2f}"
        print(f"{name:<52} {statistics.median(values):6.2f}  ({spread})")


if __name__ == "__main__":
    main()
