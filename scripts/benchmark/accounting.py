"""Times the accounting: epsilon of long runs, calibration, and epsilon after every step.

    python scripts/benchmark/accounting.py

Prints the median and the range of several runs of each, in seconds, and the load of the machine.
Every run starts from nothing: what earlier ones have kept is thrown away.
"""

import os
import statistics
import time
from collections.abc import Callable

import dp_accounting

from tfdp import accounting
from tfdp.accounting import loss_distribution, renyi

DELTA = 1e-5
RUNS = 5
N = 60_000
Q = 512 / N


def after_every_step(steps: int) -> None:
    """What a training loop asks of its ledger."""
    ledger, step = accounting.PrivacyLedger(), accounting.dp_sgd_event(1.0, 0.01)
    for _ in range(steps):
        ledger.charge(step)
        ledger.epsilon(DELTA)
        ledger.remaining_steps(step, 8.0, DELTA)


def epsilon_of(event: dp_accounting.DpEvent, steps: int, accountant: str) -> float:
    """Epsilon of one kind of step."""
    ledger = accounting.PrivacyLedger()
    ledger.charge(event, steps)
    return ledger.epsilon(DELTA, accountant)


def forget() -> None:
    """Throws away the curves and distributions that are kept."""
    renyi.curve.cache_clear()
    loss_distribution._single.cache_clear()
    loss_distribution._repeated.cache_clear()


CUT = accounting.truncated_dp_sgd_event(1.23, Q, N, accounting.capacity_for(N, Q))
FIXED = accounting.fixed_size_dp_sgd_event(4.0, 512, N)
CASES: dict[str, Callable[[], object]] = {
    "epsilon of 100,000 steps, RDP": lambda: accounting.epsilon(1.01, 0.0101, 100_000, DELTA),
    "epsilon of 100,000 steps, PLD": lambda: accounting.epsilon(
        1.01, 0.0101, 100_000, DELTA, "pld"
    ),
    "epsilon of 100,000 steps of q = 0.0001, PLD": lambda: accounting.epsilon(
        1.0, 1e-4, 100_000, DELTA, "pld"
    ),
    "epsilon of 4,688 steps, batches cut, RDP": lambda: epsilon_of(CUT, 4688, "rdp"),
    "epsilon of 100,000 steps, batches cut, PLD": lambda: epsilon_of(CUT, 100_000, "pld"),
    "epsilon of 4,688 steps, fixed size, RDP": lambda: epsilon_of(FIXED, 4688, "rdp"),
    "epsilon of 100,000 steps, fixed size, PLD": lambda: epsilon_of(FIXED, 100_000, "pld"),
    "noise for epsilon 4, 3,000 steps, RDP": lambda: accounting.noise_multiplier(
        4.0, 0.01, 3000, DELTA
    ),
    "noise for epsilon 4, 3,000 steps, PLD": lambda: accounting.noise_multiplier(
        4.0, 0.01, 3000, DELTA, "pld"
    ),
    "noise for epsilon 0.1, 100,000 steps, PLD": lambda: accounting.noise_multiplier(
        0.1, 1e-4, 100_000, DELTA, "pld"
    ),
    "noise for epsilon 8, 100 steps of q = 0.5, PLD": lambda: accounting.noise_multiplier(
        8.0, 0.5, 100, DELTA, "pld"
    ),
    "noise for epsilon 1, 2,000 steps of q = 0.001, PLD": lambda: accounting.noise_multiplier(
        1.0, 1e-3, 2000, DELTA, "pld"
    ),
    "steps for epsilon 3, noise 1.23, RDP": lambda: accounting.steps(3.0, 1.23, Q, DELTA),
    "steps for epsilon 3, noise 1.23, PLD": lambda: accounting.steps(3.0, 1.23, Q, DELTA, "pld"),
    "batch for epsilon 3, noise 1.23, RDP": lambda: accounting.batch_size(
        3.0, 1.23, 4688, N, DELTA
    ),
    "batch for epsilon 3, noise 1.23, PLD": lambda: accounting.batch_size(
        3.0, 1.23, 4688, N, DELTA, "pld"
    ),
    "steps left of batches cut, PLD": lambda: accounting.PrivacyLedger().remaining_steps(
        CUT, 3.0, DELTA, "pld"
    ),
    "steps for epsilon 1, noise 1, q = 0.0001, PLD": lambda: accounting.steps(
        1.0, 1.0, 1e-4, DELTA, "pld"
    ),
    "epsilon and steps left after each of 200 steps, RDP": lambda: after_every_step(200),
}


def main() -> None:
    """Times all cases, one after another in every round."""
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(RUNS):
        for name, case in CASES.items():
            forget()
            start = time.perf_counter()
            case()
            seconds[name].append(time.perf_counter() - start)
    for name, values in seconds.items():
        spread = f"{min(values):.2f} to {max(values):.2f}"
        print(f"{name:<52} {statistics.median(values):6.2f}  ({spread})")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


if __name__ == "__main__":
    main()
