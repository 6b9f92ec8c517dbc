"""Tests of the residual network without normalization."""

import keras
import numpy as np
import pytest

import tfdp
from tfdp.layers import SkipInit, WeightStandardizedConv2D
from tfdp.models import nf_resnet50

L = keras.layers
TINY = {"input_shape": (16, 16, 3), "num_classes": 3, "depths": (2, 1), "widths": (8, 16)}


def parameters(depths, widths, stem_width, num_classes, channels=3):
    """Each convolution has a bias and a gain for each filter, each block one number."""

    def conv(size, inputs, filters):
        return size * size * inputs * filters + 2 * filters

    total, before = conv(7, channels, stem_width), stem_width
    for depth, width in zip(depths, widths, strict=True):
        total += conv(1, before, width)
        for _ in range(depth):
            middle = width // 4
            total += conv(1, before, middle) + conv(3, middle, middle) + conv(1, middle, width) + 1
            before = width
    return total + (before + 1) * num_classes


def test_nf_resnet_50_has_its_number_of_parameters():
    """That of ResNet-50, whose norms have as many, and 16 numbers at the ends of branches."""
    expected = parameters((3, 4, 6, 3), (256, 512, 1024, 2048), 64, 1000)
    assert expected == 25_557_032 + 16
    model = nf_resnet50()
    assert model.count_params() == expected
    assert sum(isinstance(layer, WeightStandardizedConv2D) for layer in model.layers) == 53
    sums = [layer.output.shape[1:] for layer in model.layers if isinstance(layer, L.Add)]
    assert sums == (
        [(56, 56, 256)] * 3 + [(28, 28, 512)] * 4 + [(14, 14, 1024)] * 6 + [(7, 7, 2048)] * 3
    )


def test_a_smaller_one():
    model = nf_resnet50(**TINY, stem_width=4)
    assert model.count_params() == parameters((2, 1), (8, 16), 4, 3)
    assert model.output_shape == (None, 3)


def test_variances_of_the_blocks_are_those_of_the_construction():
    keras.utils.set_random_seed(0)
    alpha = 0.5
    model = nf_resnet50(
        input_shape=(64, 64, 3), depths=(3, 2), widths=(128, 128), stem_width=128, alpha=alpha
    )
    sums = [layer.output for layer in model.layers if isinstance(layer, L.Add)]
    pooled = next(layer.output for layer in model.layers if isinstance(layer, L.MaxPooling2D))
    # From inputs of variance one, not of the larger ones that are left by the pooling.
    blocks = keras.Model(pooled, sums)
    x = np.random.default_rng(0).normal(size=(4, 16, 16, 128)).astype("float32")
    variances = [np.var(block) for block in blocks(x)]
    expected = [1 + alpha**2 * count for count in (1, 2, 3, 1, 2)]
    np.testing.assert_allclose(variances[:3], expected[:3], rtol=0.15)
    # Pooling in the shortcut takes some of the variance away.
    assert 0.3 * expected[3] < variances[3] < variances[4] < 1.15 * expected[4]


def test_a_block_is_the_formula():
    keras.utils.set_random_seed(0)
    model = nf_resnet50(**TINY, alpha=0.3)
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(variable + 0.2 * rng.normal(size=variable.shape))
    first, second = [layer.output for layer in model.layers if isinstance(layer, L.Add)][:2]
    start = model.layers.index(first._keras_history.operation) + 1
    end = model.layers.index(second._keras_history.operation)
    inside = model.layers[start:end]
    conv1, conv2, conv3 = (c for c in inside if isinstance(c, WeightStandardizedConv2D))
    (scale,) = (s for s in inside if isinstance(s, SkipInit))
    assert [c.kernel_size for c in (conv1, conv2, conv3)] == [(1, 1), (3, 3), (1, 1)]

    def act(x):
        return np.sqrt(2 / (1 - 1 / np.pi)) * np.maximum(x, 0)

    x = rng.normal(size=(2, 4, 4, 8)).astype("float32")
    beta = 1 / np.sqrt(1 + 0.3**2)
    residual = conv3(act(conv2(act(conv1(beta * act(x))))))
    expected = 0.3 * float(scale.multiplier) * residual + x
    np.testing.assert_allclose(keras.Model(first, second)(x), expected, rtol=1e-4, atol=1e-5)


def test_initial_weights():
    keras.utils.set_random_seed(0)
    model = nf_resnet50(input_shape=(32, 32, 3), depths=(1, 1), widths=(64, 128))
    for layer in model.layers:
        if isinstance(layer, SkipInit):
            assert float(layer.multiplier) == 1
        if isinstance(layer, WeightStandardizedConv2D):
            kernel = np.asarray(layer.kernel)
            fan_in = np.prod(kernel.shape[:-1])
            assert kernel.std() * np.sqrt(fan_in) == pytest.approx(1, rel=0.15)
            assert np.all(np.asarray(layer.gain) == 1)
    assert np.asarray(model.layers[-1].kernel).std() == pytest.approx(0.01, rel=0.05)


def test_it_is_saved_and_loaded(tmp_path):
    model = nf_resnet50(**TINY, normalize=True)
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:  # Gains and multipliers of one hide mistakes.
        variable.assign(variable + 0.2 * rng.normal(size=variable.shape))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = rng.random((2, 16, 16, 3), "float32")
    np.testing.assert_allclose(loaded(x), model(x), rtol=1e-5, atol=1e-6)


def test_it_is_trained_privately():
    keras.utils.set_random_seed(0)
    model = nf_resnet50(input_shape=(16, 16, 3), num_classes=3, depths=(1,), widths=(8,))
    before = model.get_weights()
    private = tfdp.make_private(model, expected_batch_size=4)
    private.compile(
        tfdp.optimizers.VectorizedDPKerasSGDOptimizer(1.0, 1.0, learning_rate=0.1),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    x = np.random.default_rng(0).random((4, 16, 16, 3), "float32")
    private.train_on_batch(x, np.array([0, 1, 2, 0]))
    for old, new in zip(before, model.get_weights(), strict=True):
        assert np.any(old != new) and np.all(np.isfinite(new))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"depths": ()}, r"`depths` must be .*Received: depths=\(\)$"),
        ({"depths": (1, 0, 1, 1)}, r"`depths` must be at least 1. Received: depths=0$"),
        ({"depths": (1, 1)}, r"`widths` must be as long as `depths`, 2. Received: widths="),
        ({"depths": (1,), "widths": (6,)}, r"`widths` must be multiples of 4. .*widths=\(6,\)$"),
        ({"alpha": 0}, "`alpha` must be positive. Received: alpha=0$"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        nf_resnet50(**arguments)
