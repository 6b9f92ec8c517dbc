"""A private model with canaries in its gradients, to audit its noise, clipping and accounting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdp import _entropy, _validate
from tfdp.auditing import directions, inserted, one_run
from tfdp.mechanism import Mechanism
from tfdp.private_model import PrivateModel

#: Norm of a canary's gradient before it is clipped, over the clip norm.
_LENGTH = 10.0
_DIRECTIONS = {"random": directions.RandomDirections, "single_weights": directions.SingleWeights}


class AuditedModel(PrivateModel):
    """A private model that is trained on canaries, too: gradients along directions of their own.

    A canary stands for an example whose gradient is, in every step, ten times as long as the clip
    norm and points along one direction. Whether it is among the data is decided by a fair coin. If
    it is, it is sampled as an example is, clipped by the rule for examples and added to the sum
    that gets the noise. What a step releases is all that the audit looks at: the inner products
    of the noisy sums with the direction, added up, are the canary's score.

    Compile and fit it as the model of `tfdp.make_private`, then call `audit`. Throw it away
    afterwards: canaries are noise to what it learns, and it cannot be saved.

    Args:
        model: As of `tfdp.make_private`; built, and made under no strategy with several replicas.
        canaries: How many, at least 2 and at most the trainable weights. More show more, as long as
            ``canaries * delta`` is well below 1.
        direction: ``"random"``: uniform and orthogonal, which takes the memory of ``canaries``
            copies of the weights; ``"single_weights"``: one random weight each ("Dirac" canaries).
            Defaults to ``"random"``.
        examples_known: Whether the auditor knows the other examples of each batch, and takes their
            sum off. An attacker who does is one that differential privacy is proven against, and
            the strongest; to others, examples are noise. Defaults to ``True``.
        seed: Of coins and directions. Defaults to ``None``: from the operating system.
        **kwargs: As of `tfdp.make_private`.

    Attributes:
        included: Which canaries are among the data, shape ``(canaries,)``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the model is not built, there are more canaries than weights, directions
            would take over 1 GiB, or the model was made for several replicas.

    Formal guarantee: coins are fair and independent. The run is DP-SGD on the examples and the
    canaries that are included, with the sampling probability, clipping, noise and ledger that it
    has without them; scores depend on the coins through released sums alone.

    Example:
        >>> import keras, numpy as np, tfdp
        >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(10)])
        >>> audited = tfdp.auditing.AuditedModel(model, canaries=100, seed=0)
        >>> audited.compile(
        ...     optimizer=tfdp.optimizers.VectorizedDPKerasSGDOptimizer(
        ...         l2_norm_clip=1.0, noise_multiplier=1.0, learning_rate=0.1),
        ...     loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        >>> x, y = np.zeros((50, 20)), np.zeros(50, "int32")
        >>> history = audited.fit(x, y, batch_size=25, epochs=2, verbose=0)
        >>> audited.audit(delta=1e-5).contradicts_claim
        False

    References:
        - Nasr et al. 2023, "Tight Auditing of Differentially Private Machine Learning",
          arXiv:2302.07956: canaries that are gradients.
        - Steinke, Nasr, Jagielski 2023, "Privacy Auditing with One (1) Training Run",
          arXiv:2305.08846, section 6 on white-box audits.
    """

    def __init__(
        self,
        model: keras.Model,
        *,
        canaries: int,
        direction: str = "random",
        examples_known: bool = True,
        seed: int | None = None,
        **kwargs,
    ):
        canaries = _validate.integer("canaries", canaries, minimum=2)
        kind = _DIRECTIONS[_validate.one_of("direction", direction, tuple(_DIRECTIONS))]
        examples_known = _validate.boolean("examples_known", examples_known)
        if seed is not None:
            seed = _validate.integer("seed", seed, minimum=0)
        super().__init__(model, **kwargs)
        _check_model(model, canaries, dense=direction == "random")
        if self._replicas_in_sync > 1:
            raise ValueError(
                "Canaries are added on one device. Received: a model made for "
                f"{self._replicas_in_sync} replicas"
            )
        self.included, random = inserted.fair_coins(canaries, seed)
        self._examples_known = examples_known
        self._directions = kind([v.shape for v in model.trainable_variables], canaries, random)
        self._canary_sampler = _entropy.fresh_generator()
        self._scores = tf.Variable(tf.zeros([canaries], tf.float64), trainable=False)

    @property
    def scores(self) -> np.ndarray:
        """Of each canary, in clip norms; about the steps that sampled it if it is included."""
        return self._scores.numpy()

    def audit(
        self,
        delta: float,
        *,
        guesses: Sequence[tuple[int, int]] | None = None,
        confidence: float = 0.95,
        accountant: str = "rdp",
    ) -> one_run.OneRunAudit:
        """Bounds the epsilon of all training so far from below, beside what the ledger claims.

        Args:
            delta: The delta, in (0, 1).
            guesses: As of `one_run_audit`.
            confidence: Of the bound. Defaults to 0.95.
            accountant: ``"rdp"`` or ``"pld"``: of the claim. Defaults to ``"rdp"``.

        Returns:
            A `OneRunAudit`. Where the ledger says "not private", nothing is claimed.

        Raises:
            ValueError: If nothing was trained yet, or a number is out of range.
        """
        claimed = self.ledger.epsilon(_validate.delta("delta", delta), accountant)
        if not self.ledger.releases:
            raise ValueError("There is nothing to audit before training. Received: an empty ledger")
        return one_run.one_run_audit(
            self.scores,
            self.included,
            delta=delta,
            guesses=guesses,
            confidence=confidence,
            claimed_epsilon=None if self.ledger.not_private_reasons else claimed,
        )

    def compile(self, *args, **kwargs) -> None:
        super().compile(*args, **kwargs)
        if self.optimizer.clip_bound.sensitivity == math.inf:
            raise ValueError("Canaries need a clip norm. Received: l2_norm_clip=inf")
        if self.optimizer.num_microbatches is not None:
            raise ValueError(
                "Canaries are clipped by themselves, not in groups. "
                f"Received: num_microbatches={self.optimizer.num_microbatches}"
            )

    def get_config(self) -> dict[str, Any]:
        raise NotImplementedError(
            "An audited model has canaries in its weights and is not to be saved; train a model "
            "of tfdp.make_private for that."
        )

    def _noisy_means(self, sums: list[tf.Tensor], mechanism: Mechanism) -> list[tf.Tensor]:
        shapes = [v.shape for v in self.trainable_variables]
        if mechanism.scheme.kind not in ("poisson", "full_batch", "unknown"):
            raise ValueError(
                "Canaries are sampled each by itself, as Poisson samples are. "
                f"Received: batches drawn as {mechanism.scheme.kind!r}"
            )
        canaries = self._canaries_of_step(mechanism.scheme.sampling_probability)
        if [c.shape for c in canaries] != shapes:
            raise ValueError("The trainable weights changed since the canaries were drawn.")
        joined = [s + tf.cast(c, s.dtype) for s, c in zip(sums, canaries, strict=True)]
        released = super()._noisy_means(joined, mechanism)
        seen = [tf.cast(mean, tf.float32) * mechanism.denominator for mean in released]
        if self._examples_known:
            seen = [n - tf.cast(s, tf.float32) for n, s in zip(seen, sums, strict=True)]
        scores = self._directions.along(seen) / self.optimizer.clip_bound.sensitivity
        self._scores.assign_add(tf.cast(scores, tf.float64))
        return released

    def _canaries_of_step(self, sampling_probability: float) -> list[tf.Tensor]:
        """The sum of the clipped gradients of those canaries that a step samples."""
        bound = self.optimizer.clip_bound
        length = _LENGTH * bound.sensitivity
        uniform = self._canary_sampler.uniform([len(self.included)], dtype=tf.float64)
        sampled = tf.logical_and(self.included, uniform < sampling_probability)
        squared_norms = [length**2 * norms for norms in self._directions.squared_norms]
        factors = bound.resolve(self.model).factors(squared_norms)
        return self._directions.combined(
            [length * tf.cast(sampled, factor.dtype) * factor for factor in factors]
        )


def _check_model(model: keras.Model, canaries: int, *, dense: bool) -> None:
    if not model.built:
        raise ValueError(
            "Canaries need the shapes of the weights: build the model first. "
            f"Received: model={model.name!r}, not built"
        )
    weights = sum(math.prod(v.shape) for v in model.trainable_variables)
    if canaries > weights:
        raise _validate.value_error(
            "canaries", canaries, f"at most {weights}, the number of trainable weights"
        )
    if dense and canaries * weights > directions.LARGEST:
        raise ValueError(
            f"`canaries` along random directions of {weights} weights would take over 1 GiB; take "
            f"fewer, or direction='single_weights'. Received: canaries={canaries}"
        )
