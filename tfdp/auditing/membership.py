"""Membership inference on a released model: do losses tell what it was trained on?"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
from matplotlib.figure import Figure, SubFigure
from scipy import stats
from sklearn import metrics

from tfdp import _validate
from tfdp.auditing import result

#: The false positive rates at which the attack is judged.
FALSE_POSITIVE_RATES = (0.001, 0.01)


@dataclasses.dataclass(frozen=True)
class ClassMembership:
    """How well the attack tells the members of one class.

    Attributes:
        label: The class.
        members: Training examples of it.
        others: Other examples of it.
        auc: Area under the ROC curve; ``None`` where there are no members or no others.
        tpr_at_fpr: True positive rate at each false positive rate; ``None`` in the same case.

    Example:
        >>> import numpy as np
        >>> random = np.random.default_rng(0)
        >>> labels = np.repeat([0, 1], 500)  # Losses of the second class alone tell the members.
        >>> losses = np.where(labels == 0, 1.0, 0.2) * random.exponential(size=1000)
        >>> attack = membership_attack(losses, random.exponential(size=1000),
        ...     member_labels=labels, other_labels=labels)
        >>> [(one.label, one.members, round(one.auc, 1)) for one in attack.classes]
        [(0, 500, 0.5), (1, 500, 0.8)]
    """

    label: int
    members: int
    others: int
    auc: float | None
    tpr_at_fpr: dict[float, float] | None


@dataclasses.dataclass(frozen=True)
class MembershipAttack(result.Result):
    """The result of `membership_attack`.

    Attributes:
        auc: The chance that a training example has a lower loss than another one: 0.5 is guessing.
        p_value: Of the Mann-Whitney test that losses tell nothing, one-sided.
        tpr_at_fpr: Share of training examples that are found at each false positive rate. Guessing
            finds as many as the rate.
        members: Number of training examples.
        others: Number of other examples.
        classes: The same for each class; empty if no classes were given.
        false_positive_rates: Of the ROC curve.
        true_positive_rates: Of the ROC curve.

    Example:
        >>> import numpy as np
        >>> random = np.random.default_rng(0)
        >>> losses_of_members, losses_of_others = random.exponential(size=(2, 5000))
        >>> attack = membership_attack(losses_of_members, losses_of_others)
        >>> round(attack.auc, 1), sorted(attack.tpr_at_fpr)  # It finds nothing.
        (0.5, [0.001, 0.01])
    """

    auc: float
    p_value: float
    tpr_at_fpr: dict[float, float]
    members: int
    others: int
    classes: tuple[ClassMembership, ...]
    false_positive_rates: tuple[float, ...]
    true_positive_rates: tuple[float, ...]

    def __str__(self) -> str:
        found = ", ".join(f"{tpr:.2%} at {fpr:.1%}" for fpr, tpr in self.tpr_at_fpr.items())
        return (
            f"membership inference by loss: AUC {self.auc:.4f} (p = {self.p_value:.2g}), "
            f"{self.members} members against {self.others} others\n"
            f"  members found at a false positive rate: {found}\n"
            "  This is no privacy guarantee: a better attack may find more."
        )

    def draw(self, figure: Figure | SubFigure) -> None:
        """The ROC curve on logarithmic axes, and the area of each class, if there are any."""
        known = [one for one in self.classes if one.auc is not None]
        left, *rest = figure.subplots(1, 2 if known else 1, squeeze=False)[0]
        least = 0.5 / max(self.members, self.others)
        rates = np.geomspace(least, 1, 100)
        left.plot(rates, rates, color="0.4", linestyle="--", linewidth=1, label="guessing")
        left.step(
            np.maximum(self.false_positive_rates, least),
            np.maximum(self.true_positive_rates, least),
            where="post",
            color="tab:red",
            label=f"loss, AUC {self.auc:.3f}",
        )
        left.set(xscale="log", yscale="log", xlim=(least, 1), ylim=(least, 1))
        left.set(
            title="Membership inference",
            xlabel="false positive rate",
            ylabel="true positive rate",
        )
        left.legend(frameon=False)

        for right in rest:
            right.bar(
                [str(one.label) for one in known], [one.auc for one in known], color="tab:red"
            )
            right.axhline(0.5, color="0.4", linestyle="--", linewidth=1)
            right.set(title="AUC by class", xlabel="class", ylim=(0, 1))
        for axes in (left, *rest):
            result.tidy(axes)


def membership_attack(
    member_losses: Any,
    other_losses: Any,
    *,
    member_labels: Any = None,
    other_labels: Any = None,
) -> MembershipAttack:
    """Guesses from the loss of each example whether a model was trained on it.

    Training examples and others must be samples of one distribution, drawn apart at random: any
    other difference between them looks like membership.

    Args:
        member_losses: Losses of training examples, shape ``(members,)``: `example_losses`.
        other_losses: Losses of examples that were not trained on, shape ``(others,)``.
        member_labels: Classes of the former, whole numbers from 0, for figures of each class.
            Defaults to ``None``.
        other_labels: Classes of the latter; with ``member_labels``. Defaults to ``None``.

    Returns:
        A `MembershipAttack`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If there is no loss, one is not finite, or labels are not one for each loss.

    Formal guarantee: none, and none can be read from the result. A p-value near 0 shows that the
    model tells of its training examples; the reverse does not show that it does not. It is no bound
    on epsilon: which examples were trained on was not decided by coins (`one_run_audit`). The
    result is not protected by privacy.

    Example:
        >>> import numpy as np
        >>> random = np.random.default_rng(0)
        >>> attack = membership_attack(random.exponential(0.5, 5000), random.exponential(1, 5000))
        >>> round(attack.auc, 2), round(attack.tpr_at_fpr[0.01], 3)
        (0.66, 0.019)

    References:
        - Yeom et al. 2018, "Privacy Risk in Machine Learning: Analyzing the Connection to
          Overfitting", arXiv:1709.01604: the attack.
        - Carlini et al. 2022, "Membership Inference Attacks From First Principles",
          arXiv:2112.03570: why detection at few false positives says more than the area.
    """
    members = result.numbers("member_losses", member_losses)
    others = result.numbers("other_losses", other_losses)
    if (member_labels is None) != (other_labels is None):
        name = "member_labels" if member_labels is None else "other_labels"
        raise _validate.value_error(name, None, "given, as the labels of the other losses are")
    classes = []
    if member_labels is not None:
        member_labels = result.labels("member_labels", member_labels, len(members))
        other_labels = result.labels("other_labels", other_labels, len(others))
        for label in np.union1d(member_labels, other_labels).tolist():
            of_class = members[member_labels == label], others[other_labels == label]
            auc = tpr_at_fpr = None
            if min(map(len, of_class)):
                auc, tpr_at_fpr, _, _ = _curve(*of_class)
            classes.append(ClassMembership(label, *map(len, of_class), auc, tpr_at_fpr))
    auc, tpr_at_fpr, fpr, tpr = _curve(members, others)
    return MembershipAttack(
        auc=auc,
        p_value=float(stats.mannwhitneyu(members, others, alternative="less").pvalue),
        tpr_at_fpr=tpr_at_fpr,
        members=len(members),
        others=len(others),
        classes=tuple(classes),
        false_positive_rates=tuple(fpr.tolist()),
        true_positive_rates=tuple(tpr.tolist()),
    )


def example_losses(
    model: keras.Model,
    x: Any,
    y: Any,
    loss: keras.losses.Loss | None = None,
    *,
    batch_size: int = 256,
) -> np.ndarray:
    """The loss of each example, as the model gives it in inference.

    Args:
        model: The model.
        x: Inputs with a common first axis.
        y: Targets, shape ``(examples, ...)``.
        loss: A loss of Keras. Defaults to ``None``: cross-entropy of logits with whole classes.
        batch_size: Examples at a time. Defaults to 256.

    Returns:
        Losses, shape ``(examples,)``, the mean where a loss has several numbers for an example.

    Raises:
        TypeError: If the model is none of Keras, or the loss none.
        ValueError: If inputs and targets differ in number, or a number is out of range.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> example_losses(model, np.zeros((2, 4)), np.array([0, 1])).round(3).tolist()
        [1.099, 1.099]
    """
    if not isinstance(model, keras.Model):
        raise _validate.type_error("model", model, "a Keras model")
    if loss is None:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if not isinstance(loss, keras.losses.Loss):
        raise _validate.type_error("loss", loss, "a loss of Keras")
    batch_size = _validate.integer("batch_size", batch_size, minimum=1)
    lengths = {np.shape(part)[:1] for part in keras.tree.flatten(x)}
    y = np.asarray(y)
    if y.dtype.kind not in "biuf" or y.ndim == 0 or {y.shape[:1]} != lengths:
        raise _validate.value_error(
            "y", y if y.ndim == 0 else f"an array of shape {y.shape}", "one target for each input"
        )
    outputs = model.predict(x, batch_size=batch_size, verbose=0)
    # What a loss works out before it is reduced to one number for the batch.
    losses = keras.ops.convert_to_numpy(loss.call(y, keras.ops.convert_to_tensor(outputs)))
    return losses.reshape(len(y), -1).mean(axis=1).astype(np.float64)


def _curve(
    members: np.ndarray, others: np.ndarray
) -> tuple[float, dict[float, float], np.ndarray, np.ndarray]:
    """Area, detection at few false positives, and the ROC curve."""
    is_member = np.repeat([1, 0], [len(members), len(others)])
    scores = -np.concatenate([members, others])
    fpr, tpr, _ = metrics.roc_curve(is_member, scores)
    # Thresholds that exist: between two of them there is nothing to interpolate.
    tpr_at_fpr = {rate: float(tpr[fpr <= rate].max()) for rate in FALSE_POSITIVE_RATES}
    return float(metrics.roc_auc_score(is_member, scores)), tpr_at_fpr, fpr, tpr
