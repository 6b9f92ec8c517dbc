"""The numbers of LoRA adapters: where Keras keeps them, as arrays, and put back from arrays."""

from __future__ import annotations

import keras
import numpy as np

from tfdp import _matrices


def factor_names(layer: keras.layers.Layer) -> tuple[str, str]:
    kind = "embeddings" if isinstance(layer, keras.layers.Embedding) else "kernel"
    return f"lora_{kind}_a", f"lora_{kind}_b"


def factors_of(layer: keras.layers.Layer) -> list[keras.Variable]:
    return [getattr(layer, name) for name in factor_names(layer)]


def alpha_of(layer: keras.layers.Layer) -> float:
    # Keras versions without `lora_alpha` do not scale.
    return float(getattr(layer, "lora_alpha", layer.lora_rank))


def arrays_of(layers: dict[str, keras.layers.Layer]) -> dict[str, np.ndarray]:
    """The factors and alpha of adapters, by the names that their layers are given here."""
    arrays = {}
    for name, layer in layers.items():
        for key, value in zip(_keys(name), (*factors_of(layer), alpha_of(layer)), strict=True):
            arrays[key] = keras.ops.convert_to_numpy(value)
    return arrays


def assign(layers: dict[str, keras.layers.Layer], arrays: dict[str, np.ndarray]) -> None:
    """Assigns what `arrays_of` gave, all of it or nothing.

    Raises:
        ValueError: If names, shapes or alpha differ.
    """
    differing = {key for name in layers for key in _keys(name)} ^ set(arrays)
    if differing:
        names = sorted({key.rsplit(":", 1)[0] for key in differing})
        raise ValueError(f"adapters are on other layers; these differ: {names}")
    values = []
    for name, layer in layers.items():
        *factors, alpha = (arrays[key] for key in _keys(name))
        for variable, array in zip(factors_of(layer), factors, strict=True):
            if tuple(variable.shape) != array.shape:
                raise ValueError(
                    f"adapters of {name!r} have the shape {tuple(variable.shape)}; the file has "
                    f"{array.shape}"
                )
            values.append((variable, array))
        if float(alpha) != alpha_of(layer):
            raise ValueError(
                f"adapters of {name!r} have the alpha {alpha_of(layer)}; the file has "
                f"{float(alpha)}"
            )
    for variable, array in values:
        variable.assign(array)


def arrays_for_training(model: keras.Model) -> dict[str, np.ndarray]:
    """The matrices and factors of all adapters, by place: for checkpoints of unfinished training.

    Keras writes the sum of matrix and adapter in place of the matrix, and no factors. It computes
    the same, but factors of zero have a gradient of zero: such a model cannot be trained further.
    """
    layers = _by_place(model)
    matrices = {f"{name}:w": _matrices.matrix_of(layer) for name, layer in layers.items()}
    return arrays_of(layers) | {k: keras.ops.convert_to_numpy(v) for k, v in matrices.items()}


def assign_for_training(model: keras.Model, arrays: dict[str, np.ndarray]) -> None:
    """Puts back what `arrays_for_training` gave, into a model with the same adapters or none.

    Raises:
        ValueError: If the adapters are others. The model is then as it was.
    """
    layers = _by_place(model)
    if not layers:  # What Keras has loaded is the sum.
        return
    factors = {name: array for name, array in arrays.items() if not name.endswith(":w")}
    assign(layers, factors)
    for name, layer in layers.items():
        _matrices.matrix_of(layer).assign(arrays[f"{name}:w"])


def _by_place(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """Layers with adapters by their number: paths need not be unique."""
    layers = [part for part in model._flatten_layers() if getattr(part, "lora_enabled", False)]
    return {f"adapter_{number}": layer for number, layer in enumerate(layers)}


def _keys(path: str) -> tuple[str, str, str]:
    """The names of a layer's arrays in a file."""
    return f"{path}:a", f"{path}:b", f"{path}:alpha"
