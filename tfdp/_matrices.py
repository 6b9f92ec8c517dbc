"""The weight matrices that low-rank adapters can be put on, and how they are named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from tfdp import _validate

#: Layers whose kernel or table Keras can adapt; it works as a matrix along its last axis.
ADAPTABLE = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Embedding,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
)


def check_built(model: Any) -> keras.Model:
    """Refuses what is not a Keras model with weights."""
    if not isinstance(model, keras.Model):
        raise _validate.type_error("model", model, "a keras.Model")
    if not model.built:
        raise ValueError(
            "The weights of `model` are not known before it is built: call it on a batch. "
            f"Received: model={model.name!r}, not built"
        )
    return model


def matrix_of(layer: keras.layers.Layer) -> keras.Variable:
    """The variable that holds a layer's matrix, without adapters."""
    # With adapters the public properties are sums, not variables.
    return layer._embeddings if isinstance(layer, keras.layers.Embedding) else layer._kernel


def path_of(model: keras.Model, layer: keras.layers.Layer) -> str:
    """The path of a layer inside of a model: that of its variables, without their own names."""
    # Keras numbers models that got no name: two copies of one have different names.
    return matrix_of(layer).path.rsplit("/", 1)[0].removeprefix(f"{model.name}/")


def layers_with_matrices(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """Every layer of a model, at any depth, that has such a matrix.

    Returns:
        Layers by path, in the order of the model's variables.

    Raises:
        ValueError: If two of them have one path.
    """
    place = {id(variable): number for number, variable in enumerate(model.variables)}
    found = {
        id(layer): layer
        for layer in model._flatten_layers()
        if isinstance(layer, ADAPTABLE)
        and layer.built
        and getattr(layer, "quantization_mode", None) is None
    }
    layers: dict[str, keras.layers.Layer] = {}
    for layer in sorted(found.values(), key=lambda layer: place[id(matrix_of(layer))]):
        path = path_of(model, layer)
        if path in layers:
            raise ValueError(
                f"Two layers of `model` have the path {path!r}, so that neither can be told by "
                f"it: give them different names. Received: model={model.name!r}"
            )
        layers[path] = layer
    return layers


def by_name(model: keras.Model, argument: str, names: Any) -> dict[str, keras.layers.Layer]:
    """Looks layers up by path, or by name where only one has it.

    Args:
        model: A built model.
        argument: What errors call the names.
        names: Paths or names.

    Returns:
        Layers by path, in the order of the names.

    Raises:
        TypeError: If the names are not a sequence of strings.
        ValueError: If there are none, or one is unknown, ambiguous or given twice, or its layer
            cannot be adapted.
    """
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise _validate.type_error(argument, names, "a list of layer paths or names")
    if not names:
        raise _validate.value_error(argument, names, "a list with at least one layer")
    layers = layers_with_matrices(model)
    found: dict[str, keras.layers.Layer] = {}
    for name in names:
        _validate.text(argument, name)
        paths = [name] if name in layers else [p for p, x in layers.items() if x.name == name]
        if len(paths) != 1:
            known = (
                f"paths or unique names among {list(layers)}; {name!r} is of {len(paths)} layers"
            )
            raise _validate.value_error(argument, names, known)
        path = paths[0]
        if path in found:
            raise _validate.value_error(argument, names, f"different layers; {path!r} is twice")
        reason = obstacle(layers[path])
        if reason is not None:
            expected = f"layers that can have adapters; {path!r} cannot: {reason}"
            raise _validate.value_error(argument, names, expected)
        found[path] = layers[path]
    return found


def obstacle(layer: keras.layers.Layer) -> str | None:
    """Why a layer cannot have adapters; ``None`` if it can."""
    if layer.lora_enabled:
        return "it has some already"
    for name in ("kernel_constraint", "embeddings_constraint"):
        if getattr(layer, name, None) is not None:
            return f"its {name} would not hold for the sum"
    return None
