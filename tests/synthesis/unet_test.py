"""The U-Net with attention: shapes, matrices, examples by themselves, rules of clipping."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdp
from tfdp.synthesis import attention_unet
from tfdp.synthesis.unet import TimeEmbedding

TINY = {"image_shape": (8, 8, 1), "num_classes": 3, "widths": (8, 8), "heads": 2}


def tiny(**kwargs):
    """A small one with an output that is not zero."""
    keras.utils.set_random_seed(0)
    unet = attention_unet(**{**TINY, **kwargs})
    rng = np.random.default_rng(0)
    for weight in unet.trainable_variables:
        weight.assign(weight + 0.2 * rng.standard_normal(weight.shape))
    return unet


def inputs(count=3, shape=(8, 8, 1)):
    rng = np.random.default_rng(1)
    images = rng.standard_normal((count, *shape)).astype("float32")
    return [images, np.arange(count, dtype="float32") * 100, np.arange(count, dtype="int32") % 4]


def attention_matrices(unet):
    return [
        layer for layer in unet._flatten_layers() if isinstance(layer, keras.layers.EinsumDense)
    ]


@pytest.mark.parametrize("shape", [(28, 28, 1), (32, 32, 3)])
def test_the_default_predicts_zero_for_each_pixel_at_first(shape):
    unet = attention_unet(shape)
    output = unet(inputs(2, shape))
    assert output.shape == (2, *shape)
    np.testing.assert_array_equal(output, 0)
    assert len(attention_matrices(unet)) == 24
    assert 300_000 < unet.count_params() < 1_000_000


def test_attention_is_at_the_levels_that_are_asked_for():
    def places(**kwargs):
        names = [layer.path for layer in attention_matrices(attention_unet(**TINY, **kwargs))]
        assert len({*names}) == len(names)
        return {name.split("/")[0].split("_self")[0].split("_cross")[0] for name in names}

    assert places(attention=(False, False)) == {"middle_0"}
    assert places() == {"down1_0", "middle_0", "up1_0"}
    assert places(blocks=2) == {"down1_0", "down1_1", "middle_0", "up1_0", "up1_1"}
    assert places(attention=(True, False)) == {"down0_0", "middle_0", "up0_0"}


def test_names_are_the_same_in_another_copy():
    first, second = ([v.path for v in attention_unet(**TINY).trainable_variables] for _ in range(2))
    assert first == second
    assert len({*first}) == len(first)


@pytest.mark.parametrize("changed", [0, 1, 2])
def test_images_time_and_label_move_their_own_row_alone(changed):
    unet, before = tiny(), inputs()
    after = [array.copy() for array in before]
    after[changed][1] = after[changed][1] + 1
    difference = np.abs(unet(after) - unet(before)).max((1, 2, 3))
    assert difference[1] > 1e-4
    np.testing.assert_allclose(difference[[0, 2]], 0, atol=1e-5)


def test_every_variable_is_used():
    unet, (images, time, labels) = tiny(), inputs()
    with tf.GradientTape() as tape:
        loss = keras.ops.sum(keras.ops.square(unet([images, time, labels])))
    gradients = tape.gradient(loss, [v.value for v in unet.trainable_variables])
    for variable, gradient in zip(unet.trainable_variables, gradients, strict=True):
        assert gradient is not None, variable.path


@pytest.mark.parametrize("lora", [False, True])
def test_every_layer_has_a_rule(lora):
    unet = attention_unet((8, 8, 1), 3, widths=(8,), attention=(False,), heads=2)
    if lora:
        for layer in attention_matrices(unet):
            layer.enable_lora(2)
    summary = tfdp.make_private(unet).clipping_summary()
    assert "run again" not in summary
    for layer in unet._flatten_layers():
        if layer.trainable_variables and not isinstance(
            layer, (keras.Model, keras.layers.MultiHeadAttention)
        ):
            assert layer.name in summary


@pytest.mark.parametrize(
    "kwargs", [{}, {"patch_size": 1}, {"widths": (4, 8, 16), "attention": (False, True, True)}]
)
def test_it_is_saved_and_loaded(tmp_path, kwargs):
    shape = (16, 16, 2)
    unet = tiny(image_shape=shape, **kwargs)
    unet.save(tmp_path / "unet.keras")
    loaded = keras.saving.load_model(tmp_path / "unet.keras")
    given = inputs(shape=shape)
    np.testing.assert_allclose(loaded(given), unet(given), rtol=1e-5, atol=1e-5)


def test_times_are_told_apart():
    layer = TimeEmbedding(8)
    features = np.asarray(layer(np.arange(1000, dtype="float32")))
    assert features.shape == (1000, 8)
    np.testing.assert_allclose(features[:, 0], np.sin(np.arange(1000)), atol=1e-4)
    np.testing.assert_allclose(features[:, 4:] ** 2 + features[:, :4] ** 2, 1, atol=1e-5)
    distances = np.linalg.norm(features[:, None] - features[None], axis=-1) + 9 * np.eye(1000)
    assert distances.min() > 0.01
    with pytest.raises(ValueError, match="dim=7"):
        TimeEmbedding(7)
