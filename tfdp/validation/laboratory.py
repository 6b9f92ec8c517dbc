"""Runs a model again and again from the same state, and notes what its layers do."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.random.seed_generator import global_seed_generator

from tfdp.validation.comparison import differs


@dataclasses.dataclass(frozen=True)
class Event:
    """A call of a layer begins or ends.

    Attributes:
        layer: The layer, or operation of a functional model.
        caller: The layer that called it; ``None`` for the model itself.
        is_output: Whether this is the end of the call.
        values: The tensors given or returned.
    """

    layer: keras.Operation
    caller: keras.layers.Layer | None
    is_output: bool
    values: list[np.ndarray]

    def matches(self, other: Event) -> bool:
        """Whether the other is the same event in another run."""
        return (
            self.layer is other.layer
            and self.is_output == other.is_output
            and len(self.values) == len(other.values)
        )


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of the model.

    Attributes:
        events: Calls of layers in their order; the last event is the model's output.
        state: Values, by index, of the variables that the run changed.
        is_random: Whether random numbers were drawn.
    """

    events: list[Event]
    state: dict[int, np.ndarray]
    is_random: bool


class Laboratory:
    """Context manager in which a model is run again and again from the same state.

    On leaving, the model has the state that it had on entering. While in it, trainable weights
    that are all zero have other values, lest they hide what they are multiplied with.

    Args:
        model: The model. If it is not built, it is.
        x: Inputs to build it with.
    """

    def __init__(self, model: keras.Model, x: Any):
        self.model = model
        self._x = x

    def __enter__(self) -> Laboratory:
        self._remember()
        if not all(layer.built for layer in self.model._flatten_layers()):
            try:
                self.model(_tensors(self._x), training=False)
            finally:
                self._put_back()
            self._remember()
        random = np.random.default_rng(0)
        self._start = [
            tf.cast(random.uniform(0.05, 0.15, value.shape), value.dtype)
            if variable.trainable and value.dtype.is_floating and not np.any(value.numpy())
            else value
            for variable, value in zip(self._variables, self._before, strict=True)
        ]
        return self

    def __exit__(self, *exc_info) -> None:
        self._put_back()

    def run(self, x: Any, training: bool = True, draw: int = 0) -> Run:
        """Runs the model on arrays; another ``draw`` is one of other random numbers."""
        start = [
            value + tf.constant([draw, 0], value.dtype) if _is_seed(variable) else value
            for variable, value in zip(self._variables, self._start, strict=True)
        ]
        for variable, value in zip(self._variables, start, strict=True):
            variable.assign(value)
        events: list[Event] = []
        with _watched(self.model, events):
            self.model(_tensors(x), training=training)
        state = {}
        for index, (variable, value) in enumerate(zip(self._variables, start, strict=True)):
            if differs(value.numpy(), variable.numpy(), tolerance=0.0).any():
                state[index] = np.array(variable.numpy())
        return Run(events, state, any(_is_seed(self._variables[index]) for index in state))

    def changed_variable(self, run: Run, other: Run) -> keras.Variable | None:
        """A variable that one run left with another value than the other run."""
        for index in sorted({*run.state, *other.state}):
            values = [r.state.get(index, self._start[index].numpy()) for r in (run, other)]
            if differs(*values).any():
                return self._variables[index]
        return None

    def unseen(self, run: Run) -> tuple[str, ...]:
        """Names of layers of which a run has no event."""
        seen = {id(event.layer) for event in run.events}
        return tuple(
            layer.name
            for layer in self.model._flatten_layers()
            if id(layer) not in seen and not isinstance(layer, keras.layers.InputLayer)
        )

    def _remember(self) -> None:
        # Random numbers without a seed come from a generator that no model owns and that Keras
        # shows nowhere else.
        shared_seed = global_seed_generator().state
        variables = (*self.model.variables, *self.model.metrics_variables, shared_seed)
        self._variables = list({id(variable): variable for variable in variables}.values())
        self._before = [tf.identity(variable.value) for variable in self._variables]

    def _put_back(self) -> None:
        for variable, value in zip(self._variables, self._before, strict=True):
            variable.assign(value)


@contextlib.contextmanager
def _watched(model: keras.Model, events: list[Event]) -> Iterator[None]:
    """While open, every call of a layer or operation of ``model`` is noted in ``events``."""
    callers: list[keras.layers.Layer] = []

    def watch(layer):
        call = layer.call

        @functools.wraps(call)
        def watched_call(*args, **kwargs):
            if not tf.executing_eagerly():  # Within a tf.function: no values to be had.
                return call(*args, **kwargs)
            caller = callers[-1] if callers else None
            events.append(Event(layer, caller, False, _arrays((args, kwargs))))
            callers.append(layer)
            try:
                outputs = call(*args, **kwargs)
            finally:
                callers.pop()
            events.append(Event(layer, caller, True, _arrays(outputs)))
            return outputs

        # Past Keras's attribute tracking, as in `tfdp.clipping.recorder`.
        object.__setattr__(layer, "call", watched_call)

    layers = model._flatten_layers()
    operations = [op for layer in layers for op in getattr(layer, "operations", ())]
    watched = list({id(layer): layer for layer in (*layers, *operations)}.values())
    try:
        for layer in watched:
            watch(layer)
        yield
    finally:
        for layer in watched:
            layer.__dict__.pop("call", None)


def _is_seed(variable: keras.Variable) -> bool:
    return variable.name == "seed_generator_state"


def _tensors(x: Any) -> Any:
    return keras.tree.map_structure(tf.convert_to_tensor, x)


def _arrays(structure: Any) -> list[np.ndarray]:
    dense = (
        tf.sparse.to_dense(leaf) if isinstance(leaf, tf.SparseTensor) else leaf
        for leaf in keras.tree.flatten(structure)
    )
    return [np.asarray(leaf) for leaf in dense if isinstance(leaf, tf.Tensor)]
