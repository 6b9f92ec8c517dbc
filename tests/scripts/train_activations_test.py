"""Tests of how the size of activations is measured while `train.py` trains."""

import json

import keras
import numpy as np
import pytest
from absl import flags

from tfdp.scripts import image_datasets, train, train_settings
from tfdp.scripts.command_line import UsageError


def trained(folder, *arguments):
    values = flags.FlagValues()
    train_settings.declare_flags(values)
    values(["train.py", "--dataset=digits", f"--output_dir={folder}", "--verbose=0", *arguments])
    train.train(values)
    return json.loads((folder / "result.json").read_text())["history"]


def test_norms_of_every_epoch_are_those_of_test_images(tmp_path):
    history = trained(tmp_path, "--epochs=2", "--activation_norms")
    model = keras.saving.load_model(tmp_path / "model.keras")
    places = [layer for layer in model.layers if isinstance(layer, keras.layers.Activation)]
    assert len(places) == 1 and len(history["activation_norm_0"]) == 2
    images = image_datasets.load("digits").test.arrays()[0]
    outputs = keras.Model(model.inputs, places[0].output).predict(images, verbose=0)
    expected = np.linalg.norm(outputs, axis=1).mean()
    assert history["activation_norm_0"][-1] == pytest.approx(expected, rel=1e-5)
    assert history["activation_norm_0"][0] != pytest.approx(expected, rel=1e-5)


def test_they_are_measured_on_demand_where_there_are_activations(tmp_path):
    assert set(trained(tmp_path, "--epochs=1")) == {"test_accuracy", "epsilon"}
    with pytest.raises(UsageError, match="layers that are activations. Received: model=linear$"):
        trained(tmp_path, "--epochs=1", "--activation_norms", "--model=linear")
