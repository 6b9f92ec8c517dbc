"""Tests of the scattering transform: kymatio's features, in Keras's layout."""

import builtins

import keras
import numpy as np
import pytest
import tensorflow as tf
from kymatio.scattering2d.frontend.numpy_frontend import ScatteringNumPy2D

from tfdp.layers import Scattering2D

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((8, 8), {"J": 1, "L": 2}),
        ((28, 28), {}),
        ((13, 18), {"J": 2, "L": 3}),
        ((16, 16), {"J": 3, "L": 2, "max_order": 1}),
        ((5, 5), {"J": 2, "L": 2}),
    ],
)
def test_features_are_those_of_kymatio_channel_by_channel(size, options):
    x = RNG.uniform(size=(3, *size, 2)).astype("float32")
    layer = Scattering2D(**options)
    found = layer(x).numpy()
    assert found.shape == layer.compute_output_shape(x.shape)
    reference = ScatteringNumPy2D(layer.J, size, layer.L, max_order=layer.max_order)
    each = [np.moveaxis(reference(x[..., channel]), 1, -1) for channel in range(2)]
    np.testing.assert_allclose(found, np.concatenate(each, -1), rtol=1e-4, atol=1e-5)


def test_it_works_compiled_in_models_and_for_no_images():
    model = keras.Sequential([keras.Input((8, 8, 1)), Scattering2D(L=2), keras.layers.Flatten()])
    assert model.output_shape == (None, 2 * 2 * (1 + 4 + 4))
    x = RNG.uniform(size=(5, 8, 8, 1)).astype("float32")
    compiled = tf.function(model)
    np.testing.assert_allclose(compiled(x), model(x), rtol=1e-5)
    np.testing.assert_allclose(compiled(x)[:2], compiled(x[:2]), rtol=1e-5)
    assert compiled(x[:0]).shape == (0, 36)
    assert not model.weights


def test_it_is_saved_with_its_settings(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 1)), Scattering2D(J=1, L=3, max_order=1)])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = RNG.uniform(size=(2, 8, 8, 1)).astype("float32")
    np.testing.assert_array_equal(loaded(x), model(x))


def test_features_have_the_dtype_of_the_policy():
    assert Scattering2D(L=2, dtype="mixed_float16")(np.zeros((1, 8, 8, 1))).dtype == "float16"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"J": 0}, ValueError, "J=0"),
        ({"L": 2.5}, TypeError, r"L=2\.5"),
        ({"max_order": 3}, ValueError, "max_order=3"),
    ],
)
def test_bad_settings_are_named(options, error, message):
    with pytest.raises(error, match=message):
        Scattering2D(**options)


@pytest.mark.parametrize("shape", [(None, 4, 8, 1), (None, None, 8, 1), (None, 64)])
def test_images_that_are_too_small_or_of_unknown_size_are_refused(shape):
    with pytest.raises(ValueError, match="takes images of known size, of more than 4 pixels"):
        Scattering2D().build(shape)


def test_without_kymatio_it_says_what_to_install(monkeypatch):
    def absent(name, *args, **kwargs):
        if name.startswith("kymatio"):
            raise ModuleNotFoundError(name)
        return original(name, *args, **kwargs)

    original = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match="pip install kymatio"):
        Scattering2D().build((None, 8, 8, 1))
