"""Keeps training within a privacy budget."""

from __future__ import annotations

import math

import keras

from tfdp import _validate


class PrivacyBudget(keras.callbacks.Callback):
    """Stops before the step that would overspend, and shows epsilon in the progress bar.

    ``logs["epsilon"]`` is the epsilon of everything in the model's ledger, so it is also in the
    history and in any logger that comes after this callback.

    Args:
        target_epsilon: The budget, positive; ``None`` reports epsilon and never stops.
        delta: Probability with which the epsilon guarantee may fail, in (0, 1).
        accountant: ``"rdp"`` or ``"pld"``. Defaults to ``"rdp"``.

    Raises:
        BudgetSpentError: From ``fit``, before any step, if not one step fits into what is left.

    Formal guarantee: after ``fit`` the ledger's epsilon at ``delta`` is at most
    ``target_epsilon``, if it was before. With ``steps_per_execution=k`` steps run k at a time,
    and training stops when fewer than k are left.

    Example:
        >>> import tfdp
        >>> budget = tfdp.callbacks.PrivacyBudget(target_epsilon=3.0, delta=1e-5)
    """

    def __init__(self, target_epsilon: float | None, delta: float, accountant: str = "rdp"):
        super().__init__()
        if target_epsilon is not None:
            target_epsilon = _validate.positive("target_epsilon", target_epsilon)
        self.target_epsilon = target_epsilon
        self.delta = _validate.delta("delta", delta)
        self.accountant = _validate.one_of("accountant", accountant, ("rdp", "pld"))
        self._remaining = math.inf

    def on_train_begin(self, logs=None):
        model = self.model
        if not hasattr(model, "ledger"):
            raise ValueError(
                "PrivacyBudget needs a model from tfdp.make_private. "
                f"Received: model={model.name!r} ({type(model).__name__})"
            )
        if self.target_epsilon is None:
            return
        self._remaining = model.ledger.remaining_steps(
            model.step_event, self.target_epsilon, self.delta, self.accountant
        )
        if self._remaining < model.steps_per_execution:
            raise BudgetSpentError(
                f"The privacy budget is spent: epsilon is {self._epsilon():.4g} at "
                f"delta={self.delta:g}, and no further training step fits. "
                f"Received: target_epsilon={self.target_epsilon}"
            )

    def on_train_batch_end(self, batch, logs=None):
        self._remaining -= self.model.steps_per_execution
        if self._remaining < self.model.steps_per_execution:
            self.model.stop_training = True
        if logs is not None:
            logs["epsilon"] = self._epsilon()

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["epsilon"] = self._epsilon()

    def _epsilon(self) -> float:
        return self.model.ledger.epsilon(self.delta, self.accountant)


class BudgetSpentError(ValueError):
    """Training was asked for, and the privacy budget does not allow one more step."""
