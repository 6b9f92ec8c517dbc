"""Low-rank adaptation (LoRA) of chosen weight matrices, on top of Keras's own ``enable_lora``.

A matrix W is frozen and ``W + alpha / rank * A B`` takes its place, of which only the narrow A and
B are trained. That changes which variables a private training step clips and noises, and nothing
else: `tfdp.make_private` of an adapted model has the guarantee of any other.
"""

from __future__ import annotations

import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfdp import _adapters, _matrices, _validate

# What NumPy and the archive raise on content that is not as expected.
_UNREADABLE = (
    *(AttributeError, EOFError, LookupError, MemoryError, NotImplementedError, OSError),
    *(RuntimeError, SyntaxError, TypeError, ValueError, tokenize.TokenError),
    *(zipfile.BadZipFile, zlib.error),
)


def enable(
    model: keras.Model, layers: Sequence[str] | Any, rank: int, alpha: float | None = None
) -> None:
    """Puts adapters on chosen layers of a model, in place, and freezes everything else.

    The outputs are the same until the adapters are trained: B starts at zero. What else is to be
    trained, such as a new output layer, is unfrozen afterwards: ``layer.trainable = True`` (not on
    an adapted layer, where Keras would unfreeze the matrix itself). Call it before
    `tfdp.make_private` and ``compile``.

    Args:
        model: A built model of any kind. The layers may be at any depth, such as the projections
            inside of `keras.layers.MultiHeadAttention`.
        layers: Paths of layers, or names that only one layer has; or a
            `tfdp.saliency.Selection`. They are Dense, EinsumDense, Embedding or convolution
            layers.
        rank: Columns of A and rows of B, at least 1.
        alpha: The adapters count ``alpha / rank`` times. Defaults to ``None``: once.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the model is not built or has adapters already, or a layer is unknown,
            ambiguous or cannot have any. The model is then as it was.

    Formal guarantee: exactly the two factors of every given layer are trainable afterwards; that
    is checked on the model, and no layer is left out silently.

    Example:
        >>> import keras, tfdp
        >>> model = keras.Sequential([
        ...     keras.Input((8,)), keras.layers.Dense(6, name="body"), keras.layers.Dense(2)])
        >>> tfdp.lora.enable(model, ["body"], rank=2)
        >>> tfdp.lora.trainable_parameters(model)
        28

    References:
        - Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685,
          section 4.1.
        - Yu et al. 2022, "Differentially Private Fine-tuning of Language Models",
          arXiv:2110.06500: with DP-SGD.
    """
    _matrices.check_built(model)
    rank = _validate.integer("rank", rank, minimum=1)
    scale = {} if alpha is None else {"lora_alpha": _validate.positive("alpha", alpha)}
    if hasattr(layers, "candidates"):  # A Selection.
        layers = layers.layers
    chosen = _matrices.by_name(model, "layers", layers)
    adapted = adapted_layers(model)
    if adapted:
        raise ValueError(
            "`model` has adapters already: merge them first, or name all layers at once. "
            f"Received: model={model.name!r}, with adapters on {list(adapted)}"
        )
    _freeze_all_but(model, {id(layer) for layer in chosen.values()})
    for layer in chosen.values():
        layer.enable_lora(rank, **scale)
    trainable = {id(variable) for variable in model.trainable_variables}
    factors = {id(factor) for layer in chosen.values() for factor in _adapters.factors_of(layer)}
    if trainable != factors:
        raise RuntimeError(
            f"Of the factors of {list(chosen)} not all are trainable, or not they alone: "
            f"{[variable.path for variable in model.trainable_variables]}"
        )
    _forget_compiled_functions(model)


def trainable_parameters(model: keras.Model) -> int:
    """How many numbers training changes: the entries of all trainable variables.

    Args:
        model: A built model.

    Returns:
        Their number.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If it is not built.

    Example:
        >>> import keras, tfdp
        >>> tfdp.lora.trainable_parameters(
        ...     keras.Sequential([keras.Input((8,)), keras.layers.Dense(6)]))
        54
    """
    _matrices.check_built(model)
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


def adapted_layers(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """The layers of a model that have adapters.

    Args:
        model: A built model.

    Returns:
        Layers by path, in the order of the model's variables; none if there are no adapters.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If it is not built.

    Example:
        >>> import keras, tfdp
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6, name="body")])
        >>> tfdp.lora.enable(model, ["body"], rank=2)
        >>> list(tfdp.lora.adapted_layers(model))
        ['body']
    """
    layers = _matrices.layers_with_matrices(_matrices.check_built(model))
    return {path: layer for path, layer in layers.items() if layer.lora_enabled}


def merge(model: keras.Model) -> None:
    """Adds the adapters to their matrices and removes them, in place.

    What is left is a plain model that computes the same, up to rounding, and can be saved, served
    or adapted again. What is frozen stays frozen. An optimizer that trained the adapters is of no
    use to it any more.

    Args:
        model: A model with adapters.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If it is not built or has no adapters.

    Formal guarantee: the matrices are worked out from the adapters and what they are added to:
    post-processing.

    Example:
        >>> import keras, tfdp
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6, name="body")])
        >>> tfdp.lora.enable(model, ["body"], rank=2)
        >>> tfdp.lora.merge(model)
        >>> len(tfdp.lora.adapted_layers(model)), len(model.weights)
        (0, 2)
    """
    for layer in _with_adapters(model).values():
        matrix, (a, b) = _matrices.matrix_of(layer), _adapters.factors_of(layer)
        a_values, b_values = (keras.ops.convert_to_numpy(v).astype("float64") for v in (a, b))
        total = keras.ops.convert_to_numpy(matrix).astype("float64")
        total += _adapters.alpha_of(layer) / layer.lora_rank * (a_values @ b_values)
        matrix.assign(keras.ops.cast(total, matrix.dtype))
        b.assign(keras.ops.zeros_like(b))  # Functions compiled by the caller may still read it.
        for factor in (a, b):
            layer._untrack_variable(factor)
        for name in _adapters.factor_names(layer):
            # Not Keras's own, which collects garbage each time: minutes for a large model.
            super(keras.layers.Layer, layer).__delattr__(name)
        layer.lora_enabled, layer.lora_rank, layer.lora_alpha = False, None, None
    _forget_compiled_functions(model)


def save_adapters(model: keras.Model, path: str | os.PathLike) -> None:
    """Writes the adapters alone, without the matrices that they are added to.

    Args:
        model: A model with adapters.
        path: The file to write, NumPy's ``.npz`` format: for each layer its A, B and alpha.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the model is not built or has no adapters.

    Example:
        >>> import keras, os, tempfile, tfdp
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6, name="body")])
        >>> tfdp.lora.enable(model, ["body"], rank=2)
        >>> path = os.path.join(tempfile.mkdtemp(), "adapters.npz")
        >>> tfdp.lora.save_adapters(model, path)
        >>> os.path.exists(path)
        True
    """
    arrays = _adapters.arrays_of(_with_adapters(model))
    path = _validate.path("path", path)
    with open(path, "wb") as file:  # Given a name, NumPy would add an ending to it.
        np.savez(file, **arrays)


def load_adapters(model: keras.Model, path: str | os.PathLike) -> None:
    """Reads what `save_adapters` has written.

    Args:
        model: A model on which `enable` has put adapters of the same shapes on the same layers.
        path: The file.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the model is not built or has no adapters, or the file is not of such a
            model: layers, shapes or alpha differ. The model is then as it was.

    Example:
        >>> import keras, os, tempfile, tfdp
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6, name="body")])
        >>> tfdp.lora.enable(model, ["body"], rank=2)
        >>> path = os.path.join(tempfile.mkdtemp(), "adapters.npz")
        >>> tfdp.lora.save_adapters(model, path)
        >>> tfdp.lora.load_adapters(model, path)
    """
    layers = _with_adapters(model)
    path = _validate.path("path", path)
    with open(path, "rb") as file:
        try:
            with np.load(file, allow_pickle=False) as archive:
                arrays = dict(archive)
            if not all(isinstance(entry, np.ndarray) for entry in arrays.values()):
                raise TypeError("an entry is no array")
        except _UNREADABLE as error:
            raise _validate.value_error("path", path, f"a file of adapters ({error})") from None
    try:
        _adapters.assign(layers, arrays)
    except ValueError as error:
        raise _validate.value_error("path", path, f"a file of its adapters ({error})") from None


def _with_adapters(model: keras.Model) -> dict[str, keras.layers.Layer]:
    layers = adapted_layers(model)
    if not layers:
        raise ValueError(
            "`model` has no adapters: see `tfdp.lora.enable`. "
            f"Received: model={model.name!r}, without adapters"
        )
    return layers


def _freeze_all_but(layer: keras.layers.Layer, chosen: set[int]) -> bool:
    """Freezes all variables, and all layers but the chosen ones and those around them.

    Layers, and not variables alone: batch normalization goes by what its layer is.
    """
    inner = list(layer._flatten_layers(include_self=False, recursive=False))
    layer.trainable = False
    holds = any([_freeze_all_but(part, chosen) for part in inner]) or id(layer) in chosen
    if holds:
        layer._trainable = True  # The public setter would reach the layers inside.
    return holds


def _forget_compiled_functions(model: keras.Model) -> None:
    """Makes ``fit``, ``evaluate`` and ``predict`` trace the model as it is now."""
    for part in model._flatten_layers():
        if isinstance(part, keras.Model):
            part.train_function = part.test_function = part.predict_function = None
