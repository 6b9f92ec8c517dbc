"""Keras callbacks for private training."""

from tfdp.callbacks.privacy_budget import BudgetSpentError, PrivacyBudget

__all__ = ["BudgetSpentError", "PrivacyBudget"]
