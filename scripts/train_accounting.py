"""What a run of `train.py` releases, and what that spends, known before it is trained."""

import dp_accounting

import tfdp
from tfdp.mechanism import events_of
from tfdp.scripts import train_screening
from tfdp.scripts.train_features import Statistics
from tfdp.scripts.train_screening import Screening


def step_event(
    batches: tfdp.sampling.PoissonDataset, noise_multiplier: float, replicas: int
) -> dp_accounting.DpEvent:
    """One step on so many replicas, which cut their shares of larger samples by themselves."""
    event, _ = events_of(batches.scheme_of(replicas), noise_multiplier)
    return event


def beside_steps(
    screening: Screening | None, statistics: Statistics | None, num_examples: int, steps: int
) -> dp_accounting.DpEvent:
    """What is released beside so many steps: the scores of all, and statistics before the first."""
    released = []
    if statistics is not None:
        released.append(statistics.event)
    scores = train_screening.scores_event(screening, num_examples, steps)
    if scores is not None:
        released.append(scores)
    return dp_accounting.ComposedDpEvent(released)


def ledger_of(
    step: dp_accounting.DpEvent, steps: int, beside: dp_accounting.DpEvent
) -> tfdp.accounting.PrivacyLedger:
    """What so many steps spend, whether updates are kept or not, with what is beside them."""
    ledger = tfdp.accounting.PrivacyLedger()
    ledger.charge(step, steps)
    ledger.charge(beside)
    return ledger
