"""Keras callbacks for private training."""

from tfdp.callbacks.backup_and_restore import BackupAndRestore
from tfdp.callbacks.privacy_budget import BudgetSpentError, PrivacyBudget
from tfdp.callbacks.privacy_log import PrivacyLog
from tfdp.callbacks.screening_rules import NoisyThreshold, ScreeningRule, SimulatedAnnealing
from tfdp.callbacks.update_screening import UpdateScreening

__all__ = [
    "BackupAndRestore",
    "BudgetSpentError",
    "NoisyThreshold",
    "PrivacyBudget",
    "PrivacyLog",
    "ScreeningRule",
    "SimulatedAnnealing",
    "UpdateScreening",
]
