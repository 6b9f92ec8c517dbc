"""Adapters: what is trainable, what they compute, merging, files, and private training."""

import keras
import numpy as np
import one_example_at_a_time
import pytest
import tensorflow as tf

import tfdp
from tfdp import lora, saliency

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.uniform(size=(6, 8, 8, 3)).astype("float32")
LABELS = np.arange(6) % 3


def small_vit(depth=2):
    keras.utils.set_random_seed(3)
    return tfdp.models.vit_small(
        input_shape=(8, 8, 3), num_classes=3, patch_size=4, dim=8, depth=depth, heads=2
    )


def nested():
    """A model in a model, with every kind of layer that can have adapters."""
    keras.utils.set_random_seed(4)
    inner = keras.Sequential(
        [
            keras.Input((6,), dtype="int32"),
            keras.layers.Embedding(9, 8, name="table"),
            keras.layers.Conv1D(6, 3, groups=2, name="conv"),
            keras.layers.EinsumDense("btf,fu->btu", (None, 5), name="einsum"),
        ],
        name="inner",
    )
    inputs = keras.Input((6,), dtype="int32")
    x = keras.layers.GlobalAveragePooling1D()(inner(inputs))
    return keras.Model(inputs, keras.layers.Dense(3, name="logits")(x))


ALL_NESTED = ["inner/table", "inner/conv", "inner/einsum", "logits"]
TOKENS = RANDOM.integers(0, 9, (5, 6)).astype("int32")


def randomize(model):
    """Adapters as training leaves them: B is not zero."""
    for variable in model.trainable_variables:
        variable.assign(RANDOM.normal(size=variable.shape) * 0.3)


def attention(model, number):
    parts = [x for x in model.layers if isinstance(x, keras.layers.MultiHeadAttention)]
    return parts[number].name


def test_only_the_factors_of_the_chosen_layers_are_trainable():
    model = small_vit()
    outputs = model.predict(IMAGES, verbose=0)
    names = [f"{attention(model, 1)}/query", "logits", f"{attention(model, 0)}/attention_output"]
    lora.enable(model, names, rank=2)
    assert {v.path for v in model.trainable_variables} == {
        f"{name}/lora_kernel_{part}" for name in names for part in "ab"
    }
    # Kernels of (8, 2, 4), (8, 3) and (2, 4, 8), as matrices along their last axis.
    assert lora.trainable_parameters(model) == 2 * (16 + 4 + 8 + 3 + 8 + 8)
    assert set(lora.adapted_layers(model)) == set(names)
    np.testing.assert_array_equal(model.predict(IMAGES, verbose=0), outputs)
    randomize(model)
    assert np.abs(model.predict(IMAGES, verbose=0) - outputs).max() > 1e-3


@pytest.mark.parametrize(
    "make, names, x", [(nested, ALL_NESTED, TOKENS), (small_vit, None, IMAGES)]
)
def test_merging_keeps_the_outputs_and_leaves_a_plain_model(make, names, x, tmp_path):
    model = make()
    weights = [(v.path, v.shape) for v in model.weights]
    before = model.predict(x, verbose=0)
    lora.enable(model, names or ["logits", f"{attention(model, 0)}/value"], 2, 6.0)
    randomize(model)
    outputs = model.predict(x, verbose=0)
    compiled = tf.function(lambda x: model(x))
    compiled(x)
    assert np.abs(outputs - before).max() > 1e-3
    lora.merge(model)
    np.testing.assert_allclose(model.predict(x, verbose=0), outputs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(compiled(x), outputs, rtol=1e-4, atol=1e-5)
    assert [(v.path, v.shape) for v in model.weights] == weights
    assert not lora.adapted_layers(model)
    model.save(tmp_path / "merged.keras")
    loaded = keras.models.load_model(tmp_path / "merged.keras")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), outputs, rtol=1e-4, atol=1e-5)
    assert len(loaded.weights) == len(weights)
    lora.enable(model, list(saliency_candidates(model))[:1], rank=1)
    np.testing.assert_allclose(model.predict(x, verbose=0), outputs, rtol=1e-4, atol=1e-5)


def saliency_candidates(model):
    selection = saliency.select(model, None, None, candidates="all_matrices", mechanism="all")
    return selection.candidates


def test_alpha_scales_what_the_adapters_add():
    added = []
    for alpha in (None, 2.0, 8.0):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="dense")])
        x = np.eye(3, dtype="float32")
        model.layers[0].kernel.assign(keras.ops.zeros((3, 4)))
        lora.enable(model, ["dense"], 2, alpha)
        for variable in model.trainable_variables:
            variable.assign(keras.ops.ones(variable.shape))
        lora.merge(model)
        added.append(model.layers[0].kernel.numpy()[0, 0])
        np.testing.assert_allclose(model(x), np.full((3, 4), added[-1]))
    assert added == [2.0, 2.0, 8.0]


def test_adapters_are_saved_and_loaded_by_themselves(tmp_path):
    path = tmp_path / "adapters"
    model, other = nested(), nested()
    for one in (model, other):
        lora.enable(one, ALL_NESTED[:3], rank=2, alpha=3.0)
    randomize(model)
    lora.save_adapters(model, path)
    assert [file.name for file in tmp_path.iterdir()] == ["adapters"]
    assert np.abs(other.predict(TOKENS, verbose=0) - model.predict(TOKENS, verbose=0)).max() > 1e-3
    lora.load_adapters(other, path)
    np.testing.assert_array_equal(
        other.predict(TOKENS, verbose=0), model.predict(TOKENS, verbose=0)
    )


def test_adapters_of_another_model_are_refused_and_nothing_is_changed(tmp_path):
    path = tmp_path / "adapters.npz"
    model = nested()
    lora.enable(model, ALL_NESTED[:2], rank=2)
    lora.save_adapters(model, path)
    for names, rank, alpha, message in (
        (ALL_NESTED[:1], 2, None, r"on other layers.*\['inner/conv'\]"),
        (ALL_NESTED[:2], 3, None, r"'inner/table' have the shape \(9, 3\); the file has \(9, 2\)"),
        (ALL_NESTED[:2], 2, 5.0, "alpha 5.0; the file has 2.0"),
    ):
        other = nested()
        lora.enable(other, names, rank, alpha)
        before = other.get_weights()
        with pytest.raises(ValueError, match=message):
            lora.load_adapters(other, path)
        for old, new in zip(before, other.get_weights(), strict=True):
            np.testing.assert_array_equal(old, new)
    path.write_text("no adapters")
    with pytest.raises(ValueError, match="`path` must be a file of adapters"):
        lora.load_adapters(model, path)


@pytest.mark.parametrize(
    "layers, message",
    [
        (["logits", "absent"], "'absent' is of 0 layers"),
        (["logits", "query"], "'query' is of 2 layers"),
        (["logits", "logits"], "'logits' is twice"),
        (["logits", "layer_normalization"], "'layer_normalization' is of 0 layers"),
    ],
)
def test_layers_that_cannot_be_adapted_are_refused_and_nothing_is_changed(layers, message):
    model = small_vit()
    with pytest.raises(ValueError, match=message):
        lora.enable(model, layers, rank=2)
    assert not lora.adapted_layers(model)
    assert len(model.trainable_variables) == len(model.weights)


def test_constraints_second_adapters_and_models_without_weights_are_refused():
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(4, kernel_constraint="max_norm", name="dense")]
    )
    with pytest.raises(ValueError, match="'dense' cannot: its kernel_constraint would not hold"):
        lora.enable(model, ["dense"], 1)
    model = nested()
    lora.enable(model, ALL_NESTED[:1], 1)
    with pytest.raises(ValueError, match=r"adapters on \['inner/table'\]"):
        lora.enable(model, ALL_NESTED[1:], 1)
    for function in (lora.merge, lambda model: lora.save_adapters(model, "never")):
        with pytest.raises(ValueError, match="`model` has no adapters"):
            function(nested())
    with pytest.raises(ValueError, match="`model` is not known|not built"):
        lora.trainable_parameters(keras.Sequential([keras.layers.Dense(2)]))


def test_batch_normalization_is_frozen_with_the_rest():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dense(3, name="logits")]
    )
    lora.enable(model, ["logits"], 1)
    assert not model.layers[0].trainable
    tfdp.make_private(model)


def test_selected_matrices_alone_are_trained_privately():
    model = small_vit(depth=1)
    selection = saliency.select(
        model, LOSS, (IMAGES, LABELS), fraction=0.5, score_noise_multiplier=0.0
    )
    assert len(selection.layers) == 2
    lora.enable(model, selection, rank=2)
    model.get_layer("logits").trainable = True  # A new output layer is often trained as well.
    chosen = {f"{name}/lora_kernel_{part}" for name in selection.layers for part in "ab"}
    chosen |= {"logits/kernel", "logits/bias"}
    before = {v.path: v.numpy() for v in model.weights}
    private = tfdp.make_private(model, expected_batch_size=6)
    # B starts at zero, and with it the gradient of A.
    optimizer = tfdp.optimizers.VectorizedDPKerasSGDOptimizer(0.5, 0.0, learning_rate=1.0)
    private.compile(optimizer, LOSS)
    gradients = one_example_at_a_time.gradients(model, LOSS, IMAGES, LABELS)
    step = one_example_at_a_time.clipped_sum(gradients, 0.5)
    expected = {
        v.path: before[v.path] - g / 6 for v, g in zip(model.trainable_variables, step, strict=True)
    }
    private.train_on_batch(IMAGES, LABELS)
    after = {v.path: v.numpy() for v in model.weights}
    assert set(expected) == chosen
    for path, value in after.items():
        np.testing.assert_allclose(value, expected.get(path, before[path]), atol=1e-6)
    moved = {path for path in after if (after[path] != before[path]).any()}
    assert moved == {path for path in chosen if not path.endswith("_a")}
    private.train_on_batch(IMAGES, LABELS)
    assert {v.path for v in model.weights if (v.numpy() != before[v.path]).any()} == chosen
    outputs = model.predict(IMAGES, verbose=0)
    lora.merge(model)
    np.testing.assert_allclose(model.predict(IMAGES, verbose=0), outputs, rtol=1e-4, atol=1e-5)
