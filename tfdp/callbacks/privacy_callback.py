"""What callbacks of private models share."""

from __future__ import annotations

import keras

from tfdp import _validate


class CallbackOfPrivateModel(keras.callbacks.Callback):
    """Refuses to go with the training of a model that is not private."""

    def on_train_begin(self, logs=None):
        model = self.model
        if not hasattr(model, "ledger"):
            raise ValueError(
                f"{type(self).__name__} needs a model from tfdp.make_private. "
                f"Received: model={model.name!r} ({type(model).__name__})"
            )


class PrivacyCallback(CallbackOfPrivateModel):
    """Puts the epsilon of everything in the model's ledger into ``logs``, as ``"epsilon"``.

    Args:
        delta: Probability with which the epsilon guarantee may fail, in (0, 1).
        accountant: ``"rdp"`` or ``"pld"``.
    """

    def __init__(self, delta: float, accountant: str):
        super().__init__()
        self.delta = _validate.delta("delta", delta)
        self.accountant = _validate.one_of("accountant", accountant, ("rdp", "pld"))

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["epsilon"] = self._epsilon()

    def _epsilon(self) -> float:
        return self.model.ledger.epsilon(self.delta, self.accountant)
