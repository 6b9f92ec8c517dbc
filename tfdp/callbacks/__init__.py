"""Keras callbacks for private training."""

from tfdp.callbacks.privacy_budget import BudgetSpentError, PrivacyBudget
from tfdp.callbacks.privacy_log import PrivacyLog

__all__ = ["BudgetSpentError", "PrivacyBudget", "PrivacyLog"]
