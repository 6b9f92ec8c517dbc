"""How large a network's activations are, epoch by epoch, on images that may be shown."""

from __future__ import annotations

import keras
import numpy as np

import tfdp
from tfdp.scripts.images import Images

#: What the metrics of an epoch are called, before the number of the activation.
METRIC = "val_activation_norm_"
_IMAGES = 512
_ACTIVATIONS = (keras.layers.Activation, keras.layers.ReLU, tfdp.layers.TemperedSigmoid)


def activations_of(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers of a model that do nothing but apply an activation, in their order."""
    return [layer for layer in model.layers if isinstance(layer, _ACTIVATIONS)]


class ActivationNorms(keras.callbacks.Callback):
    """Measures after every epoch the mean L2 norm of what each activation puts out.

    Args:
        model: A plain functional or sequential model.
        images: Images that may be shown: the first 512 of the test data.
    """

    def __init__(self, model: keras.Model, images: Images):
        super().__init__()
        self._outputs = keras.Model(model.inputs, [layer.output for layer in activations_of(model)])
        self._images = images.split(min(_IMAGES, len(images)))[0].arrays()[0]

    def on_epoch_end(self, epoch, logs=None):
        outputs = self._outputs.predict(self._images, verbose=0)
        for number, values in enumerate(outputs if isinstance(outputs, list) else [outputs]):
            norms = np.linalg.norm(values.reshape(len(values), -1).astype("float64"), axis=1)
            logs[f"{METRIC}{number}"] = float(norms.mean())
