"""`validate`: does one example's output depend on another? Shown by experiment."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdp import _validate
from tfdp.clipping.plan import check_no_added_losses, describe
from tfdp.model_checks import BATCH_NORMALIZATION_REMEDY
from tfdp.private_model import PrivateModel
from tfdp.validation.comparison import Owners, differs, is_inexact, is_part
from tfdp.validation.laboratory import Event, Laboratory, Run

# Examples may be mixed by a random weight, which is almost nothing in some draws.
_DRAWS = 5


@dataclasses.dataclass(frozen=True)
class ValidationReport:
    """What `validate` looked at, having found nothing.

    Attributes:
        examples: Examples in the batch.
        runs: Times the model was run.
        layers: Layers, and operations of functional models, whose outputs were compared.
        unseen: Names of layers that were not called in training on this batch, or in a place that
            cannot be watched (a loop of a `keras.layers.RNN`, a `tf.function`). What went through
            them was compared in the outputs of the layers around them.
        part_mode: Whether half of the batch was run by itself in ``"training"`` or in
            ``"inference"`` (as for models that draw random numbers in training), or ``None`` if
            random numbers are drawn in both, so that nothing can be compared.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> report = validate(model, np.random.default_rng(0).normal(size=(4, 3)))
        >>> report.examples, report.unseen
        (4, ())
    """

    examples: int
    runs: int
    layers: int
    unseen: tuple[str, ...]
    part_mode: str | None

    def __str__(self) -> str:
        text = (
            f"No output for one example depended on another: {self.layers} layers compared in "
            f"{self.runs} runs on {self.examples} examples."
        )
        return text + (f" Not seen: {', '.join(self.unseen)}." if self.unseen else "")


def validate(model: keras.Model, batch: Any) -> ValidationReport:
    """Checks by experiment that the output for one example does not depend on other examples.

    Differentially private training bounds what one example can change by clipping that example's
    gradient; this says nothing if other examples' outputs depend on it too. `make_private` refuses
    the layers that it knows to mix examples; this function finds the others, in any code.

    The model is run in training mode on ``batch``, and then on batches in which some examples are
    replaced by copies of others, until each example was kept while each other one was replaced.
    Before each run weights, states and the states of all seed generators are put back, so that
    dropout masks are the same (where random numbers are drawn, all this is done with five draws of
    them). Whatever a kept example is given or returns, in any layer, must be
    the same in all runs; a layer's tensors may have the examples along any axis (or several rows
    for an example), the model's outputs along the first. Then half of the batch is run by itself:
    nothing may depend on the size of the batch or on the place in it. Afterwards the model is bit
    for bit what it was before.

    What it shows and what it does not: an error shows a dependence and the first place where it
    was seen. No error shows that there is none on this batch, with these weights. A layer that
    mixes examples seldom, or under a condition that does not arise, is not found, nor one whose
    effect is lost on the way to where a layer is called or returns (a gate at zero, for instance:
    therefore trainable weights that are all zero are given other values for the experiment).
    State that Keras does not track is not seen.

    Args:
        model: Any Keras model, also a `PrivateModel`. One that is not built yet is built.
        batch: A few examples as the model is trained on: arrays, nested in lists and dictionaries
            as the model takes them, or a tuple ``(x,)``, ``(x, y)`` or ``(x, y, sample_weight)``,
            of which only ``x`` is used. At least 2 examples that differ.

    Returns:
        A `ValidationReport`: how much was compared.

    Raises:
        TypeError: If ``model`` is not a Keras model, or ``batch`` does not hold arrays.
        ValueError: If an example's output depends on another example, if the model keeps state or
            adds losses that depend on the batch, or if nothing can be told: fewer than 2
            different examples, outputs that are not numbers, random numbers from elsewhere than
            `keras.random`. The message names the layer and the remedy.

    Example:
        >>> import keras, numpy as np, tfdp
        >>> model = keras.Sequential([
        ...     keras.Input((4,)),
        ...     keras.layers.Lambda(lambda x: x - keras.ops.mean(x, axis=0), name="centre")])
        >>> tfdp.validate(model, np.eye(4))
        Traceback (most recent call last):
            ...
        ValueError: Layer 'centre' (Lambda) makes the output for one example depend on other
        examples of the batch...
    """
    if not isinstance(model, keras.Model):
        raise _validate.type_error("model", model, "a keras.Model")
    x, examples = _inputs_of(batch)
    if isinstance(model, PrivateModel):
        model = model.model
    with Laboratory(model, x) as laboratory:
        return _experiment(laboratory, x, examples)


def _experiment(laboratory: Laboratory, x: Any, examples: int) -> ValidationReport:
    first = laboratory.run(x)
    _check_numbers(first)
    _check_repeatable(first, laboratory.run(x))
    runs = 2
    for draw in range(_DRAWS if first.is_random else 1):
        runs += _check_examples(laboratory, x, examples, draw)
    check_no_added_losses(laboratory.model)

    whole, part_mode = first, "training"
    if whole.is_random:  # Fewer numbers drawn are other numbers.
        runs, whole, part_mode = runs + 1, laboratory.run(x, training=False), "inference"
    if whole.is_random:
        part_mode = None
    else:
        half = np.arange(examples) >= examples // 2
        part = laboratory.run(_rows(x, half), training=part_mode == "training")
        runs += 1
        _check_part(laboratory.model, whole, part, half)
        _check_states(laboratory.model, [laboratory.changed_variable(whole, part)])
    return ValidationReport(
        examples=examples,
        runs=runs,
        layers=len({id(event.layer) for event in first.events}),
        unseen=laboratory.unseen(first),
        part_mode=part_mode,
    )


def _check_examples(laboratory: Laboratory, x: Any, examples: int, draw: int) -> int:
    """Refuses a model if what is kept depends on what is replaced; the number of runs."""
    first = laboratory.run(x, draw=draw)
    owners = [
        [Owners(value.shape, examples, event.caller is None) for value in event.values]
        for event in first.events
    ]
    out_of_step: set[int | None] = set()
    changed: list[keras.Variable | None] = []
    for kept in _splits(examples):
        rows = np.where(kept, np.arange(examples), np.resize(np.flatnonzero(kept), examples))
        other = laboratory.run(_rows(x, rows), draw=draw)
        out_of_step.add(_compare(first, other, owners, kept))
        changed.append(laboratory.changed_variable(first, other))
    for index, event in enumerate(first.events):
        if index in out_of_step or any(one.mixed for one in owners[index]):
            raise _mixing(event, laboratory.model)
    _check_states(laboratory.model, changed)
    return 1 + len(changed)


def _inputs_of(batch: Any) -> tuple[Any, int]:
    """The model's inputs in ``batch`` as NumPy arrays, and how many examples they hold."""
    if isinstance(batch, tuple):
        if not 1 <= len(batch) <= 3:
            raise _validate.value_error("batch", batch, "(x,), (x, y) or (x, y, sample_weight)")
        batch = batch[0]
    leaves = keras.tree.flatten(batch)
    if not leaves or not all(isinstance(leaf, np.ndarray | tf.Tensor) for leaf in leaves):
        raise _validate.type_error("batch", batch, "arrays, or arrays in lists and dictionaries")
    lengths = {leaf.shape[0] if len(leaf.shape) else None for leaf in leaves}
    if len(lengths) != 1 or None in lengths:
        shapes = [tuple(leaf.shape) for leaf in leaves]
        raise ValueError(
            "The arrays of `batch` must have the examples as their first axis. "
            f"Received: batch with shapes {shapes}"
        )
    (examples,) = lengths
    x = keras.tree.map_structure(np.asarray, batch)
    if examples < 2 or all((a == a[:1]).all() for a in keras.tree.flatten(x)):
        raise ValueError(
            "`batch` must have at least 2 examples that differ: what one does to another shows "
            f"only then. Received: batch of {examples}"
            + (" equal examples" if examples > 1 else "")
        )
    return x, examples


def _rows(x: Any, rows: np.ndarray) -> Any:
    return keras.tree.map_structure(lambda array: array[rows], x)


def _splits(examples: int) -> Iterator[np.ndarray]:
    """Which examples are kept: for any two, one split keeps the first and not the second."""
    index = np.arange(examples)
    for bit in range((examples - 1).bit_length()):
        one = (index >> bit) % 2 == 1
        yield one
        yield ~one


def _compare(first: Run, other: Run, owners: list[list[Owners]], kept: np.ndarray) -> int | None:
    """Compares what belongs to kept examples; the first event that did not happen again."""
    for index, (event, again) in enumerate(zip(first.events, other.events, strict=False)):
        if not event.matches(again):
            return index
        for one, value, other_value in zip(owners[index], event.values, again.values, strict=True):
            one.compare(value, other_value, kept)
    return None


def _check_numbers(run: Run) -> None:
    def has_nan(event):
        return any(is_inexact(value) and np.isnan(value).any() for value in event.values)

    if has_nan(run.events[-1]):
        event = next(event for event in run.events if has_nan(event))
        where = "output of" if event.is_output else "input to"
        raise ValueError(
            "Outputs that are not numbers cannot be compared. The first NaN is in the "
            f"{where} {describe(event.layer)}. Give a batch on which the model's output is finite. "
            f"Received: model={run.events[-1].layer.name!r}"
        )


def _check_repeatable(first: Run, again: Run) -> None:
    for index, event in enumerate(first.events):
        other = again.events[index] if index < len(again.events) else None
        repeated = (
            other is not None
            and event.matches(other)
            and all(
                value.shape == other_value.shape and not differs(value, other_value).any()
                for value, other_value in zip(event.values, other.values, strict=True)
            )
        )
        if not repeated:
            raise ValueError(
                f"{_blamed(event)} gives different outputs when it is run again from the same "
                "state, so that nothing can be told from outputs. Draw random numbers with "
                "`keras.random` and a `keras.random.SeedGenerator` that the layer holds. "
                f"Received: model={first.events[-1].layer.name!r}"
            )


def _check_states(model: keras.Model, changed: list[keras.Variable | None]) -> None:
    for variable in changed:
        if variable is None:
            continue
        owners = [
            layer
            for layer in model._flatten_layers()
            if any(v is variable for v in (*layer.variables, *layer.metrics_variables))
        ]
        innermost = min(owners, key=lambda layer: len(layer._flatten_layers()), default=model)
        raise ValueError(
            f"{_named(innermost)} keeps what it saw of the batch in its variable "
            f"'{variable.path}', which no noise protects. Compute it from public data or from "
            f"constants, and leave it as it is in `call`. Received: model={model.name!r}"
        )


def _check_part(model: keras.Model, whole: Run, part: Run, chosen: np.ndarray) -> None:
    pairs = list(zip(whole.events, part.events, strict=False))
    if not all(event.matches(alone) for event, alone in pairs):
        pairs = []  # Layers are called as often as there are examples.
    for event, alone in (*pairs, (whole.events[-1], part.events[-1])):
        for value, alone_value in zip(event.values, alone.values, strict=True):
            # Numbers of rows may depend on the size, and do no harm by themselves.
            if is_inexact(value) and not is_part(alone_value, value, chosen):
                raise _mixing(event, model, "the number of examples or on its place in the batch")


def _mixing(
    event: Event, model: keras.Model, on: str = "other examples of the batch"
) -> ValueError:
    blamed = event.layer if event.is_output else event.caller
    if isinstance(blamed, keras.layers.BatchNormalization):
        remedy = BATCH_NORMALIZATION_REMEDY
    else:
        remedy = (
            "Work on each example by itself: no sums, norms, means or matrix products along the "
            "axis of the examples, and an output with a row for each."
        )
    return ValueError(
        f"{_blamed(event)} makes the output for one example depend on {on}. {remedy} "
        f"Received: model={model.name!r}"
    )


def _blamed(event: Event) -> str:
    """The layer in whose own code an event came about."""
    if event.is_output:
        return _named(event.layer)
    return f"{_named(event.caller)}, in its own `call` before {describe(event.layer)},"


def _named(layer: keras.Operation) -> str:
    name = describe(layer)
    return name[0].upper() + name[1:]
