"""The loss-based membership attack."""

import json

import keras
import numpy as np
import pytest

from tfdp.auditing import example_losses, membership_attack


def test_losses_that_say_nothing_are_guessing():
    random = np.random.default_rng(0)
    attack = membership_attack(random.exponential(size=20_000), random.exponential(size=20_000))
    assert attack.auc == pytest.approx(0.5, abs=0.01)
    assert attack.tpr_at_fpr[0.01] == pytest.approx(0.01, abs=0.004)
    assert attack.tpr_at_fpr[0.001] == pytest.approx(0.001, abs=0.001)
    assert attack.p_value > 0.01
    assert len(attack.picture().axes) == 1 and not attack.classes


def test_members_that_are_known_are_all_found():
    attack = membership_attack(np.linspace(0, 1, 50), np.linspace(2, 3, 40))
    assert attack.auc == 1 and attack.p_value < 1e-10
    assert attack.tpr_at_fpr == {0.001: 1.0, 0.01: 1.0}


def test_the_area_is_the_chance_of_a_lower_loss():
    members, others = [0.1, 0.4, 0.4], [0.2, 0.4]
    pairs = [(m < o) + 0.5 * (m == o) for m in members for o in others]
    assert membership_attack(members, others).auc == pytest.approx(np.mean(pairs))


def test_detection_does_not_exceed_the_false_positives_allowed():
    # One of 200 others is below all members: at 0.1 % none may be accused, at 1 % two may.
    others = np.concatenate([[0.0], np.full(199, 2.0)])
    attack = membership_attack(np.full(100, 1.0), others)
    assert attack.tpr_at_fpr == {0.001: 0.0, 0.01: 1.0}


def test_classes_are_judged_each_by_itself():
    members, member_labels = [0.0, 0.1, 5.0, 6.0, 1.0], [0, 0, 1, 1, 2]
    others, other_labels = [1.0, 1.1, 1.0, 1.1], [0, 0, 1, 1]
    attack = membership_attack(
        members, others, member_labels=member_labels, other_labels=other_labels
    )
    assert [one.auc for one in attack.classes] == [1.0, 0.0, None]
    assert [(one.label, one.members, one.others) for one in attack.classes] == [
        *((0, 2, 2), (1, 2, 2), (2, 1, 0))
    ]
    assert attack.auc == pytest.approx(12 / 20, abs=0.1)
    record = json.loads(attack.to_json())
    assert record["classes"][0]["tpr_at_fpr"] == {"0.001": 1.0, "0.01": 1.0}
    curve, bars = attack.picture().axes
    assert len(bars.patches) == 2 and "AUC" in curve.get_legend().get_texts()[1].get_text()


def test_labels_come_for_both_or_for_none():
    with pytest.raises(ValueError, match="other_labels"):
        membership_attack([1.0], [2.0], member_labels=[0])
    with pytest.raises(ValueError, match="member_labels"):
        membership_attack([1.0], [2.0], other_labels=[0])


def test_losses_are_those_of_single_examples():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(3)])
    x, y = np.random.default_rng(0).normal(size=(7, 4)).astype("float32"), np.arange(7) % 3
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    alone = [float(loss(y[i : i + 1], model(x[i : i + 1]))) for i in range(7)]
    np.testing.assert_allclose(example_losses(model, x, y, batch_size=3), alone, rtol=1e-5)
    targets = np.ones((7, 3), "float32")
    squared = np.mean((model(x).numpy() - targets) ** 2, axis=1)
    np.testing.assert_allclose(
        example_losses(model, x, targets, keras.losses.MeanSquaredError()), squared, rtol=1e-5
    )


def test_a_model_that_has_learnt_by_heart_is_caught():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(120, 20)).astype("float32"), random.integers(0, 2, 120)
    model = keras.Sequential(
        [keras.Input((20,)), keras.layers.Dense(64, "relu"), keras.layers.Dense(2)]
    )
    model.compile(
        keras.optimizers.Adam(0.02), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.fit(x[:60], y[:60], epochs=30, verbose=0)
    losses = example_losses(model, x, y)
    assert membership_attack(losses[:60], losses[60:]).auc > 0.8
