"""Keeps or undoes each update."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfdp import _replicas, _validate, sampling
from tfdp.callbacks.evaluation import Evaluation, rows_of
from tfdp.callbacks.privacy_callback import CallbackOfPrivateModel
from tfdp.callbacks.screening_rules import ScreeningRule
from tfdp.mechanism import Companion

_STATE = "update_screening"
REPRODUCTION = (
    "reproduction, not a DP guarantee: only updates that were kept are charged, although which "
    "ones were thrown away depends on the data"
)


class UpdateScreening(CallbackOfPrivateModel):
    """Keeps or undoes each update of a private model, as a rule decides.

    Before each training step the weights and the state of the optimizer are kept; afterwards the
    rule is asked, and an update that it rejects is undone, bit for bit. Everything that was
    computed from private data is charged, whatever is done with it:

    | evaluation data | charged with every step, kept or not |
    | --- | --- |
    | public: `tfdp.sampling.public` | the update |
    | private: arrays, a `PoissonDataset` | the update and the rule's noisy score |

    ``logs`` get ``trials``, ``acceptance_rate`` (the share of them that was kept),
    ``rejections_in_a_row`` and what the rule shows; so does the history. Checkpoints of the model
    carry the state of the rule.

    Args:
        rule: `SimulatedAnnealing`, `NoisyThreshold`, or a `ScreeningRule` of your own.
        evaluation_data: `tfdp.sampling.public(x, y)`; or private data: ``(x, y)`` or a
            `tfdp.sampling.PoissonDataset`, of which the rule draws samples of its own.
        charge: ``"trials"``: every update is charged. ``"accepted"`` charges only updates that
            were kept, as the papers do. That is no differential privacy, and the ledger says so.
            Defaults to ``"trials"``.
        evaluation_batch_size: Examples evaluated at a time. Defaults to 256.
        restore_optimizer: Whether a rejected update is also taken out of the state of the
            optimizer, its momentum above all. Defaults to ``True``.
        each: ``"step"``: each update is kept or undone by itself. ``"epoch"``: all updates of an
            epoch together, after the last of them (those of an epoch that a budget ends are kept);
            for public evaluation data and ``charge="trials"``. Defaults to ``"step"``.
        decisions: After so many decisions all that follows is kept without asking the rule; for
            public evaluation data. Defaults to ``None``: the rule is always asked.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range. From ``fit``, before any step: if the rule needs
            public data and gets others, or looks at private data and does not say what that
            releases; if ``each`` or ``decisions`` is for public data and these are not; if the
            model is not private; or if several steps run at a time (``steps_per_execution``),
            between which nothing can be undone.

    Formal guarantee: with ``charge="trials"`` the ledger holds every update and every score of
    private data, each charged before it is released. Which updates are kept is worked out from
    these, public data and fresh randomness, and so are the weights that are left: post-processing.
    A rule of your own that looks at private data must release what its ``score_event`` says and no
    more. With ``charge="accepted"`` there is no guarantee.

    Example:
        >>> import keras, numpy as np, tfdp
        >>> private = tfdp.make_private(keras.Sequential([keras.layers.Dense(2)]))
        >>> private.compile(
        ...     tfdp.optimizers.VectorizedDPKerasSGDOptimizer(1.0, noise_multiplier=2.0),
        ...     loss="mse")
        >>> x, y = np.ones((100, 4)), np.ones((100, 2))
        >>> screening = tfdp.callbacks.UpdateScreening(
        ...     tfdp.callbacks.SimulatedAnnealing(), tfdp.sampling.public(x[:20], y[:20]))
        >>> history = private.fit(
        ...     x[20:], y[20:], batch_size=8, callbacks=[screening], verbose=0).history
        >>> history["trials"], private.ledger.releases[0].count
        ([10], 10)
    """

    def __init__(
        self,
        rule: ScreeningRule,
        evaluation_data: Any,
        *,
        charge: str = "trials",
        evaluation_batch_size: int = 256,
        restore_optimizer: bool = True,
        each: str = "step",
        decisions: int | None = None,
    ):
        super().__init__()
        if not isinstance(rule, ScreeningRule):
            raise _validate.type_error("rule", rule, "a tfdp.callbacks.ScreeningRule")
        if not {"trials", "kept", "rejections_in_a_row"} <= {*getattr(rule, "state", ())}:
            raise ValueError(
                f"{type(rule).__name__} must call super().__init__() and add to `state`, which "
                f"counts its decisions, not replace it. Received: rule={rule!r}"
            )
        self.rule = rule
        self.is_public = isinstance(evaluation_data, sampling.PublicData)
        self._rows = rows_of(evaluation_data)
        self.charge = _validate.one_of("charge", charge, ("trials", "accepted"))
        self.evaluation_batch_size = _validate.integer(
            "evaluation_batch_size", evaluation_batch_size, minimum=1
        )
        self.restore_optimizer = _validate.boolean("restore_optimizer", restore_optimizer)
        if rule.needs_public_data and not self.is_public and charge == "trials":
            raise ValueError(
                f"{type(rule).__name__} measures the loss without noise, which only public data "
                "allow: give it tfdp.sampling.public(x, y), or take NoisyThreshold for private "
                f"data. Received: evaluation_data of type {type(evaluation_data).__name__}"
            )
        self.each = _validate.one_of("each", each, ("step", "epoch"))
        if decisions is not None:
            decisions = _validate.integer("decisions", decisions, minimum=1)
        self.decisions = decisions
        if self.each == "epoch" and self.charge == "accepted":
            raise ValueError(
                "The papers' accounting is that of single updates. "
                "Received: each='epoch', charge='accepted'"
            )
        if not self.is_public and (self.each == "epoch" or decisions is not None):
            raise ValueError(
                "Scores of private data are charged with every step, so every step is decided on. "
                f"Received: each={each!r}, decisions={decisions}"
            )
        self._prepared: Any = ()

    def release_with_each_step(self, model: Any) -> Companion | None:
        """The rule's score, where it is one of private data. Called by ``fit``."""
        if model.steps_per_execution > 1:
            raise ValueError(
                "An update can be undone only before the next one is made. "
                f"Received: steps_per_execution={model.steps_per_execution}"
            )
        workers = _replicas.workers_of(model.distribute_strategy)
        if workers > 1:
            raise ValueError(
                "Screening decides with random numbers of its own, and several workers would "
                f"decide differently. Received: a strategy with {workers} workers"
            )
        if self.charge == "accepted":
            model.ledger.mark_not_private(REPRODUCTION)
        if self.is_public:
            return None
        name = type(self.rule).__name__
        event = self.rule.score_event(len(self._rows))
        if event is None and self.charge == "trials":
            raise ValueError(
                f"{name} looks at private data and must say what one decision releases: "
                f"{name}.score_event. Received: None"
            )
        if event is None:
            return None
        return Companion(event, "screening score", {"rule": name, **self.rule.get_config()})

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        self._undo = None
        self._resumed = False

    def on_train_batch_begin(self, batch, logs=None):
        # Not in `on_train_begin`, where a callback listed later may still restore a checkpoint.
        if not self._resumed:
            self._resume()
            self._resumed = True
        if self._undo is None:
            self._set_up()
        if self._is_asked() and (self.each == "step" or batch == 0):
            self._remember()
            self._prepared = self._prepare()

    def on_train_batch_end(self, batch, logs=None):
        # Before Keras evaluates, which `on_epoch_end` comes after.
        if not self._is_asked() or (self.each == "epoch" and batch + 1 < self.params["steps"]):
            self._show(logs)
            return
        accepted = bool(self._decide(self._prepared).numpy())
        if not accepted and self.charge == "accepted":
            self.model.forgive_step()
        self.model.callback_state[_STATE] = self._state()
        self._show(logs)

    def on_epoch_end(self, epoch, logs=None):
        self._show(logs)

    def _is_asked(self) -> bool:
        return self.decisions is None or int(self.rule.state["trials"].numpy()) < self.decisions

    def _set_up(self) -> None:
        """Compiles what runs around each step, for the variables of the model."""
        model = self.model
        if not model.model.built:
            model.model(self._rows.gather(tf.constant([0], tf.int64))[0])
        if not model.optimizer.built:  # Else the first update would make state not kept before.
            model.optimizer.build(model.trainable_variables)
        variables = list(model.trainable_variables)
        if self.restore_optimizer:
            variables += model.optimizer.variables
        kept = [tf.Variable(variable.value, trainable=False) for variable in variables]
        evaluation = Evaluation(model, self._rows, self.evaluation_batch_size)
        rule = self.rule

        @tf.function(autograph=False)
        def remember():
            for copy, variable in zip(kept, variables, strict=True):
                copy.assign(variable.value)

        def undo():
            for copy, variable in zip(kept, variables, strict=True):
                variable.assign(copy)
            return False

        @tf.function(autograph=False)
        def prepare():
            return rule.prepare(evaluation)

        @tf.function(autograph=False, reduce_retracing=True)
        def decide(prepared):
            return tf.cond(rule.decide(evaluation, prepared), lambda: True, undo)

        self._remember, self._undo, self._prepare, self._decide = remember, undo, prepare, decide

    def _state(self) -> dict:
        return {
            "rule": [type(self.rule).__name__, self.rule.get_config()],
            "state": {name: value.numpy().item() for name, value in self.rule.state.items()},
        }

    def _resume(self) -> None:
        """Goes on where a checkpoint of the same rule stopped."""
        saved = self.model.callback_state.get(_STATE)
        if saved is None or saved["rule"] != self._state()["rule"]:
            return
        for name, value in saved["state"].items():
            self.rule.state[name].assign(value)

    def _show(self, logs: dict | None) -> None:
        saved = self.model.callback_state.get(_STATE)
        if logs is not None and saved is not None and saved["state"]["trials"]:
            state = saved["state"]
            logs.update(
                trials=state["trials"],
                acceptance_rate=state["kept"] / state["trials"],
                rejections_in_a_row=state["rejections_in_a_row"],
                **self.rule.logs(),
            )
