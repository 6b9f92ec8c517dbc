"""Keeps training within a privacy budget."""

from __future__ import annotations

import math
import time

from tfdp import _validate, accounting
from tfdp.callbacks.privacy_callback import PrivacyCallback

_SECONDS_BETWEEN_UPDATES = 1.0


class PrivacyBudget(PrivacyCallback):
    """Stops before the step that would overspend, and shows epsilon in the progress bar.

    ``logs["epsilon"]`` is the epsilon of everything in the model's ledger, so it is also in the
    history and in any logger that comes after this callback. Within an epoch it is worked out
    anew once a second, which the progress bar shows no faster.

    Args:
        target_epsilon: The budget, positive; ``None`` reports epsilon and never stops.
        delta: Probability with which the epsilon guarantee may fail, in (0, 1).
        accountant: ``"rdp"`` or ``"pld"``. Defaults to ``"rdp"``.

    Raises:
        BudgetSpentError: From ``fit``, before any step, if not one step fits into what is left.
            Also between steps, if another callback charged the ledger after this one had looked.

    Formal guarantee: after ``fit`` the ledger's epsilon at ``delta`` is at most
    ``target_epsilon``, if it was before. The ledger is asked just before each step, so what other
    callbacks restore or charge is counted wherever they stand in the list. With
    ``steps_per_execution=k`` steps run up to k at a time, and training stops when fewer than k
    are left.

    Example:
        A learning rate that falls to zero over the very steps that the budget allows:

        >>> import keras, tfdp
        >>> budget = tfdp.callbacks.PrivacyBudget(target_epsilon=3.0, delta=1e-5)
        >>> steps = budget.total_steps(noise_multiplier=1.23, sampling_probability=512 / 60_000)
        >>> steps
        6197
        >>> optimizer = tfdp.optimizers.VectorizedDPKerasSGDOptimizer(
        ...     l2_norm_clip=0.1, noise_multiplier=1.23,
        ...     learning_rate=keras.optimizers.schedules.CosineDecay(0.5, decay_steps=steps))
    """

    def __init__(self, target_epsilon: float | None, delta: float, accountant: str = "rdp"):
        super().__init__(delta, accountant)
        if target_epsilon is not None:
            target_epsilon = _validate.positive("target_epsilon", target_epsilon)
        self.target_epsilon = target_epsilon
        self._shown = 0.0
        self._shown_at = -math.inf

    def total_steps(self, noise_multiplier: float, sampling_probability: float) -> int:
        """How many steps the budget allows in all, counted from an empty ledger.

        Args:
            noise_multiplier: Standard deviation of the noise over the clip norm (half of it, if
                examples are averaged in groups before clipping: ``num_microbatches``).
            sampling_probability: Expected batch size over the number of examples, in [0, 1].

        Returns:
            The number of steps: 0 if not even one fits, `sys.maxsize` if there is no limit.

        Raises:
            ValueError: If this callback has no ``target_epsilon``, or an argument is out of range.
        """
        if self.target_epsilon is None:
            raise ValueError(
                "How many steps fit is known only for a budget. Received: target_epsilon=None"
            )
        return accounting.steps(
            self.target_epsilon,
            noise_multiplier,
            sampling_probability,
            self.delta,
            self.accountant,
        )

    # The ledger counts steps where they run. Neither `on_train_begin` nor the number of an
    # execution's steps is as good: a callback listed later may restore a ledger in its own
    # `on_train_begin`, and the last execution of an epoch may be a shorter one.

    def on_train_batch_begin(self, batch, logs=None):
        if not self._fits_another_execution():
            together = self.model.steps_per_execution
            step = "step" if together == 1 else f"execution of {together} steps"
            raise BudgetSpentError(
                f"The privacy budget is spent: epsilon is {self._epsilon():.4g} at "
                f"delta={self.delta:g}, and no further training {step} fits. "
                f"Received: target_epsilon={self.target_epsilon}"
            )

    def on_train_batch_end(self, batch, logs=None):
        if not self._fits_another_execution():
            self.model.stop_training = True
        if logs is not None:
            if time.monotonic() - self._shown_at > _SECONDS_BETWEEN_UPDATES:
                self._shown, self._shown_at = self._epsilon(), time.monotonic()
            logs["epsilon"] = self._shown

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        self._shown_at = -math.inf
        if not self._fits_another_execution():
            self.model.stop_training = True

    def _fits_another_execution(self) -> bool:
        if self.target_epsilon is None:
            return True
        remaining = self.model.remaining_steps(self.target_epsilon, self.delta, self.accountant)
        return remaining >= self.model.steps_per_execution


class BudgetSpentError(ValueError):
    """Training was asked for, and the privacy budget does not allow one more step.

    It is a `ValueError`. The step did not run, and released nothing.

    Example:
        >>> import keras, numpy as np, tfdp
        >>> private = tfdp.make_private(keras.Sequential([keras.layers.Dense(2)]))
        >>> private.compile(
        ...     tfdp.optimizers.VectorizedDPKerasSGDOptimizer(1.0, noise_multiplier=0.5), "mse")
        >>> budget = tfdp.callbacks.PrivacyBudget(target_epsilon=0.1, delta=1e-3)
        >>> x, y = np.zeros((9, 4)), np.zeros((9, 2))
        >>> try:
        ...     history = private.fit(x, y, batch_size=3, callbacks=[budget])
        ... except BudgetSpentError:
        ...     print(private.ledger.releases)
        ()
    """
