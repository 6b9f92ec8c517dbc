"""Tests of the wide residual networks."""

import keras
import numpy as np
import pytest

import tfdp
from tfdp.models import wide_resnet

L = keras.layers


def parameters(depth, width, num_classes=10, channels=3, gains=False):
    """Weights and biases of convolutions, scales and offsets of norms, and the dense layer."""

    def conv(size, inputs, filters):
        return size * size * inputs * filters + (2 if gains else 1) * filters

    total, before = conv(3, channels, 16), 16
    for stage in range(3):
        filters = 16 * width * 2**stage
        for _ in range((depth - 4) // 6):
            total += 2 * before + conv(3, before, filters) + 2 * filters + conv(3, filters, filters)
            if before != filters:
                total += 2 * before + conv(1, before, filters)
            before = filters
    return total + 2 * before + (before + 1) * num_classes


@pytest.mark.parametrize("shortcut", ["norm_relu", "relu_norm"])
def test_wrn_16_4_has_the_published_number_of_parameters(shortcut):
    assert parameters(16, 4) == 2_751_562
    assert wide_resnet(shortcut=shortcut).count_params() == 2_751_562


@pytest.mark.parametrize("depth, width", [(10, 1), (10, 2), (22, 1)])
def test_other_sizes(depth, width):
    model = wide_resnet(depth, width, num_classes=7, input_shape=(16, 12, 1))
    assert model.count_params() == parameters(depth, width, 7, 1)
    assert model.output_shape == (None, 7)


def test_the_standardized_network_has_a_gain_for_each_filter():
    model = wide_resnet(weight_standardization=True)
    assert model.count_params() == parameters(16, 4, gains=True) == 2_751_562 + 2_256
    convolutions = [layer for layer in model.layers if isinstance(layer, L.Conv2D)]
    assert len(convolutions) == 16
    assert all(isinstance(c, tfdp.layers.WeightStandardizedConv2D) for c in convolutions)


def test_stages_have_the_published_widths_and_sizes():
    sums = [layer.output.shape[1:] for layer in wide_resnet().layers if isinstance(layer, L.Add)]
    assert sums == [(32, 32, 64)] * 2 + [(16, 16, 128)] * 2 + [(8, 8, 256)] * 2


def above(layer):
    """The layer that gives `layer` its input."""
    return layer.input._keras_history.operation


@pytest.mark.parametrize("shortcut", ["norm_relu", "relu_norm"])
def test_order_of_the_layers(shortcut):
    norm_last, relu_last = [L.GroupNormalization, L.ReLU], [L.ReLU, L.GroupNormalization]
    for layer in wide_resnet(10, 2, shortcut=shortcut).layers[2:]:
        if isinstance(layer, L.Conv2D):
            kinds = [type(above(layer)), type(above(above(layer)))]
            is_shortcut = layer.kernel_size == (1, 1)
            assert kinds == (relu_last if is_shortcut and shortcut == "norm_relu" else norm_last)


def test_initial_weights():
    keras.utils.set_random_seed(0)
    model = wide_resnet()
    for layer in model.layers:
        if isinstance(layer, (L.Conv2D, L.Dense)):
            kernel = np.asarray(layer.kernel)
            fan_in = np.prod(kernel.shape[:-1])
            assert kernel.std() * np.sqrt(fan_in) == pytest.approx(1, rel=0.15)
            assert not np.any(np.asarray(layer.bias))
        if isinstance(layer, L.GroupNormalization):
            assert (layer.groups, layer.epsilon) == (16, 1e-5)
    kernels = [w for layer in model.layers for w in layer.trainable_weights if w.name == "kernel"]
    twins = [w for w in kernels if w.shape == (3, 3, 128, 128)]
    assert len(twins) == 3 and np.any(np.asarray(twins[0]) != np.asarray(twins[1]))


@pytest.mark.parametrize("standardized", [False, True])
def test_it_is_saved_and_loaded(standardized, tmp_path):
    model = wide_resnet(
        10, 1, input_shape=(8, 8, 3), groups=4, weight_standardization=standardized, normalize=True
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(0).random((2, 8, 8, 3), "float32")
    np.testing.assert_allclose(loaded(x), model(x), rtol=1e-5, atol=1e-6)


def test_normalization_uses_public_constants():
    keras.utils.set_random_seed(0)
    plain, normalized = (wide_resnet(10, 1, normalize=normalize) for normalize in (False, True))
    normalized.set_weights(plain.get_weights())
    x = np.random.default_rng(0).random((2, 32, 32, 3), "float32")
    by_hand = (x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(normalized(x), plain(by_hand), rtol=1e-3, atol=1e-4)


def test_logits_are_float32_in_mixed_precision(mixed_precision):
    model = wide_resnet(10, 1, input_shape=(8, 8, 3))
    assert model.layers[1].compute_dtype == "float16"
    assert model(np.zeros((1, 8, 8, 3))).dtype == "float32"


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"depth": 17}, r"`depth` must be 6 n \+ 4 .*Received: depth=17$"),
        ({"depth": 4}, "`depth` must be at least 10. Received: depth=4$"),
        ({"groups": 32}, "`groups` must be a divisor of 16. Received: groups=32$"),
        ({"shortcut": "norm"}, "`shortcut` must be one of .*Received: shortcut='norm'$"),
        ({"input_shape": (32, 32)}, r"`input_shape` must be .*Received: input_shape=\(32, 32\)$"),
        ({"input_shape": (8, 8, 1), "normalize": True}, r"Received: input_shape=\(8, 8, 1\)$"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        wide_resnet(**arguments)
