"""Rules that decide whether an update is kept."""

from __future__ import annotations

import abc
import math
from typing import Any

import dp_accounting
import tensorflow as tf

from tfdp import _entropy, _validate, accounting, noise, sampling
from tfdp.callbacks.evaluation import Evaluation


class ScreeningRule(abc.ABC):
    """Decides whether an update is kept. Base class for rules of one's own.

    `prepare` runs before each training step and `accept` after it, both traced once into a
    TensorFlow function, with the weights as they are at that time. What a rule remembers from
    step to step is in ``state``; checkpoints of the model carry it. Every rule has there the number
    of ``trials``, of updates ``kept``, and of ``rejections_in_a_row``.

    A rule that looks at private data must add noise itself and say with `score_event` what one
    decision releases; it is charged with every step.

    Attributes:
        needs_public_data: Whether decisions are made without noise. Defaults to ``True``.
        state: Scalar `tf.Variable` by name; a rule adds its own.

    Example:
        Keep an update if the loss on public data did not grow by more than a tenth:

        >>> import tfdp
        >>> class AlmostNoWorse(tfdp.callbacks.ScreeningRule):
        ...     def prepare(self, evaluation):
        ...         return evaluation.losses()
        ...     def accept(self, evaluation, prepared):
        ...         return tf.reduce_mean(evaluation.losses()) <= 1.1 * tf.reduce_mean(prepared)
    """

    needs_public_data = True

    def __init__(self) -> None:
        self.state: dict[str, tf.Variable] = {
            name: tf.Variable(0, dtype=tf.int64, trainable=False)
            for name in ("trials", "kept", "rejections_in_a_row")
        }

    def prepare(self, evaluation: Evaluation) -> Any:
        """What is needed of the weights before the step, as nested tensors. Defaults to nothing.

        Args:
            evaluation: The model on the evaluation data: ``evaluation.losses(indices=None)``.
        """
        return ()

    @abc.abstractmethod
    def accept(self, evaluation: Evaluation, prepared: Any) -> tf.Tensor:
        """Whether the update is kept, as a boolean scalar.

        Args:
            evaluation: The model, with the weights after the step.
            prepared: What `prepare` returned.
        """

    def decided(self, accepted: tf.Tensor) -> None:
        """Called with the decision, to bring what a rule added to ``state`` up to date.

        Defaults to nothing.
        """
        del accepted

    def decide(self, evaluation: Evaluation, prepared: Any) -> tf.Tensor:
        """`accept`, and counts the decision. Called by `UpdateScreening`."""
        accepted = self.accept(evaluation, prepared)
        self.decided(accepted)
        self.state["trials"].assign_add(1)
        self.state["kept"].assign_add(tf.cast(accepted, tf.int64))
        row = self.state["rejections_in_a_row"]
        row.assign(tf.where(accepted, tf.zeros_like(row), row + 1))
        return accepted

    def score_event(self, num_examples: int) -> dp_accounting.DpEvent | None:
        """What one decision releases of private evaluation data. Defaults to ``None``.

        Args:
            num_examples: How many of them there are.
        """
        return None

    def get_config(self) -> dict:
        """What makes two rules the same one, as JSON can hold it."""
        return {}

    def logs(self) -> dict[str, float]:
        """What the rule shows of its state, by name."""
        return {}


class SimulatedAnnealing(ScreeningRule):
    """Keeps an update if the energy fell, and else the less often the more it rose.

    The energy E is the mean loss on the evaluation data. An update that changes it by dE against
    the last one that was kept is kept with probability ``min(1, exp(-dE * k * t))``, where t is the
    number of updates kept so far; after ``max_rejections`` rejections in a row one is kept anyway.

    Args:
        temperature_factor: k, positive. Defaults to 10.
        max_rejections: Rejections in a row, 0 or more. Defaults to 5.

    Raises:
        ValueError: If a number is out of range.

    Formal guarantee: decisions depend on private data through the updates alone, so that they are
    post-processing *if the evaluation data are public*; every trial is charged.

    Example:
        >>> import tfdp
        >>> rule = tfdp.callbacks.SimulatedAnnealing(temperature_factor=10.0)
        >>> round(float(rule.acceptance_probability(0.01, kept=5)), 3)
        0.607

    References:
        Fu et al. 2022, "SA-DPSGD: Differentially Private Stochastic Gradient Descent Based on
        Simulated Annealing", arXiv:2211.07218.
    """

    def __init__(self, temperature_factor: float = 10.0, max_rejections: int = 5):
        super().__init__()
        self.temperature_factor = _validate.positive("temperature_factor", temperature_factor)
        self.max_rejections = _validate.integer("max_rejections", max_rejections, minimum=0)
        self._generator = _entropy.fresh_generator()
        self.state["energy"] = tf.Variable(math.inf, trainable=False)
        self.state["candidate_energy"] = tf.Variable(math.inf, trainable=False)

    def acceptance_probability(self, energy_change: tf.Tensor, kept: tf.Tensor) -> tf.Tensor:
        """Chance of an update to be kept, but for the limit of rejections in a row.

        Args:
            energy_change: dE, a scalar.
            kept: t, the number of updates kept so far.

        Returns:
            The probability; 0 where the energy is not finite.
        """
        energy_change = tf.convert_to_tensor(energy_change, tf.float32)
        exponent = -energy_change * self.temperature_factor * tf.cast(kept, tf.float32)
        probability = tf.where(energy_change <= 0, 1.0, tf.exp(tf.minimum(exponent, 0.0)))
        # Infinity less infinity, or no number: nothing speaks for the update.
        return tf.where(tf.math.is_nan(energy_change), 0.0, probability)

    def accept(self, evaluation: Evaluation, prepared: Any) -> tf.Tensor:
        energy = tf.reduce_mean(evaluation.losses())
        self.state["candidate_energy"].assign(energy)
        change = energy - self.state["energy"]
        probability = self.acceptance_probability(change, self.state["kept"])
        forced = self.state["rejections_in_a_row"] >= self.max_rejections
        return tf.logical_or(self._generator.uniform([]) < probability, forced)

    def decided(self, accepted: tf.Tensor) -> None:
        state = self.state
        state["energy"].assign(tf.where(accepted, state["candidate_energy"], state["energy"]))

    def get_config(self) -> dict:
        return {
            "temperature_factor": self.temperature_factor,
            "max_rejections": self.max_rejections,
        }

    def logs(self) -> dict[str, float]:
        return {"energy": float(self.state["energy"].numpy())}


class NoisyThreshold(ScreeningRule):
    """Keeps an update if a noisy measurement says that the loss fell.

    The losses before and after the update are compared on one Poisson sample of private data; the
    difference is clipped, gets noise, and must be below ``threshold * clip``. ``difference`` says
    what is clipped, for a sample of n examples with losses l before and l' after:

    | difference | score | noise |
    | --- | --- | --- |
    | ``"mean"`` | ``clip(mean(l') - mean(l))``, as published | ``2 clip * noise_multiplier`` |
    | ``"examples"`` | ``sum(clip(l' - l)) / (q N)`` | ``clip * noise_multiplier / (q N)`` |

    The second has far less noise for the same cost: an example moves a sum of clipped differences
    by ``clip``, and that is divided by the size of the sample, while a clipped mean can move by
    ``2 clip`` whatever its sample.

    Args:
        clip: Bound on a difference of losses, positive. Defaults to 0.001.
        threshold: In units of ``clip``. Defaults to -1.
        noise_multiplier: Standard deviation of the noise over the sensitivity, positive.
            Defaults to 1.
        sampling_probability: Chance of each example to be in the sample, in (0, 1]. Defaults to
            0.005.
        difference: ``"mean"`` or ``"examples"``. Defaults to ``"mean"``.

    Raises:
        ValueError: If a number is out of range.

    Formal guarantee: one decision on private data is a Poisson-subsampled Gaussian release with
    this sampling probability and noise multiplier; it is charged with every trial.

    Example:
        >>> import tfdp
        >>> rule = tfdp.callbacks.NoisyThreshold(difference="examples", sampling_probability=0.01)
        >>> rule.score_event(60_000)
        PoissonSampledDpEvent(sampling_probability=0.01,
                              event=GaussianDpEvent(noise_multiplier=1.0))

    References:
        Fu et al. 2023, "DPSUR: Accelerating Differentially Private Stochastic Gradient Descent
        Using Selective Update and Release", arXiv:2311.14056, algorithm 2.
    """

    needs_public_data = False

    def __init__(
        self,
        clip: float = 0.001,
        threshold: float = -1.0,
        noise_multiplier: float = 1.0,
        sampling_probability: float = 0.005,
        difference: str = "mean",
    ):
        super().__init__()
        self.clip = _validate.positive("clip", clip)
        self.threshold = _validate.real("threshold", threshold)
        self.noise_multiplier = _validate.positive("noise_multiplier", noise_multiplier)
        q = _validate.probability("sampling_probability", sampling_probability)
        self.sampling_probability = _validate.positive("sampling_probability", q)
        self.difference = _validate.one_of("difference", difference, ("mean", "examples"))
        self._generator = _entropy.fresh_generator()
        self._noise = noise.GaussianNoise()
        self.state["score"] = tf.Variable(0.0, trainable=False)

    def prepare(self, evaluation: Evaluation) -> tuple[tf.Tensor, tf.Tensor]:
        seed = self._generator.uniform_full_int([2], dtype=tf.int64)
        indices = sampling.poisson_indices(evaluation.num_examples, self.sampling_probability, seed)
        return indices, evaluation.losses(indices)

    def score(self, before: tf.Tensor, after: tf.Tensor, num_examples: int) -> tf.Tensor:
        """The clipped difference, without noise, over ``clip``.

        Args:
            before: Losses of the sampled examples before the update, ``(n,)``.
            after: Losses after it.
            num_examples: N.

        Returns:
            A scalar. One example more or less moves it by at most `sensitivity`.
        """
        change = (after - before) / self.clip
        if self.difference == "mean":
            change = tf.math.divide_no_nan(
                tf.reduce_sum(change), tf.cast(tf.size(change), change.dtype)
            )
        change = tf.where(tf.math.is_nan(change), tf.ones_like(change), change)
        bounded = tf.clip_by_value(change, -1.0, 1.0)
        if self.difference == "mean":
            return bounded
        return tf.reduce_sum(bounded) / (self.sampling_probability * num_examples)

    def sensitivity(self, num_examples: int) -> float:
        """By how much one example moves `score`."""
        if self.difference == "mean":
            return 2.0
        return 1.0 / (self.sampling_probability * num_examples)

    def accept(self, evaluation: Evaluation, prepared: Any) -> tf.Tensor:
        indices, before = prepared
        examples = evaluation.num_examples
        score = self.score(before, evaluation.losses(indices), examples)
        stddev = self.noise_multiplier * self.sensitivity(examples)
        noisy = self._noise.add([score], stddev)[0]
        self.state["score"].assign(noisy)
        return noisy < self.threshold

    def score_event(self, num_examples: int) -> dp_accounting.DpEvent:
        return accounting.dp_sgd_event(self.noise_multiplier, self.sampling_probability)

    def get_config(self) -> dict:
        return {
            "clip": self.clip,
            "threshold": self.threshold,
            "noise_multiplier": self.noise_multiplier,
            "sampling_probability": self.sampling_probability,
            "difference": self.difference,
        }

    def logs(self) -> dict[str, float]:
        return {"noisy_loss_change": float(self.state["score"].numpy()) * self.clip}
