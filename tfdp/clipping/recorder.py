"""Records what each layer was given and what it returned, in one forward pass.

While a `Recorder` is active, the ``call`` of each of its layers passes through it. The taps sit on
the layer instances only for that long; which recorder receives a call is decided per thread, so
that replicas of a distribution strategy, each traced in a thread of its own, do not mix.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from tfdp.clipping.registry import Call, Rule

_thread = threading.local()
_install_lock = threading.Lock()
_installed: dict[int, tuple[int, keras.layers.Layer]] = {}


def _active() -> Recorder | None:
    stack = getattr(_thread, "recorders", None)
    return stack[-1] if stack else None


class Recorder:
    """Context manager that records the calls of some layers.

    Args:
        rules: The rule of each layer to record, keyed by layer.
        tape: The gradient tape on which outputs are watched.
        pause: Whether the tape is paused inside recorded layers, so that it sees only what is
            read outside of them. Defaults to ``False``.

    Attributes:
        calls: The `Call`s so far, in order.
    """

    def __init__(
        self,
        rules: Mapping[keras.layers.Layer, Rule],
        tape: tf.GradientTape,
        pause: bool = False,
    ):
        self._rules = {id(layer): (layer, rule) for layer, rule in rules.items()}
        self._tape = tape
        self._pause = pause
        self._graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        self._pending: list[list[tf.Tensor]] = []
        self.calls: list[Call] = []

    def __enter__(self) -> Recorder:
        for layer, rule in self._rules.values():
            _install(layer, rule)
        if not hasattr(_thread, "recorders"):
            _thread.recorders = []
        _thread.recorders.append(self)
        return self

    def __exit__(self, *exc_info) -> None:
        _thread.recorders.pop()
        for layer, _ in self._rules.values():
            _uninstall(layer)

    def records(self, layer: keras.layers.Layer) -> bool:
        return id(layer) in self._rules

    def run(self, layer: keras.layers.Layer, call, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Runs the layer's own ``call`` and records it."""
        pre_activations: list[tf.Tensor] = []
        pause = self._pause and not self._pending
        self._pending.append(pre_activations)
        try:
            with self._tape.stop_recording() if pause else contextlib.nullcontext():
                output = call(*args, **kwargs)
        finally:
            self._pending.pop()
        if pre_activations:
            recorded = pre_activations[0]
        else:
            # A fresh tensor, so that a layer that returns its input is not taken for that input.
            output = keras.tree.map_structure(_watched_copy(self._tape), output)
            recorded = output
        for tensor in keras.tree.flatten(recorded):
            if isinstance(tensor, tf.Tensor) and getattr(tensor, "graph", None) is not self._graph:
                raise ValueError(
                    f"Layer '{layer.name}' ({type(layer).__name__}) was called inside a "
                    "tf.function, loop or condition of another layer, where it cannot be "
                    "recorded. Register a rule for that other layer with "
                    "`@tfdp.clipping.register_rule`, or use "
                    '`tfdp.make_private(model, clipping="vectorized")`.'
                )
        self.calls.append(Call(layer, args, kwargs, recorded))
        return output

    def pre_activation(self, tensor: tf.Tensor) -> None:
        """Notes the argument of a layer's activation."""
        if self._pending and not self._pending[-1]:
            self._tape.watch(tensor)
            self._pending[-1].append(tensor)


def _watched_copy(tape: tf.GradientTape):
    def copy(tensor):
        if not isinstance(tensor, tf.Tensor) or not tensor.dtype.is_floating:
            return tensor
        mask = getattr(tensor, "_keras_mask", None)
        tensor = tf.identity(tensor)
        if mask is not None:
            tensor._keras_mask = mask
        tape.watch(tensor)
        return tensor

    return copy


def _install(layer: keras.layers.Layer, rule: Rule) -> None:
    with _install_lock:
        count, _ = _installed.get(id(layer), (0, layer))
        _installed[id(layer)] = (count + 1, layer)
        if count:
            return
        call = layer.call

        @functools.wraps(call)
        def tapped_call(*args, **kwargs):
            recorder = _active()
            if recorder is None or not recorder.records(layer):
                return call(*args, **kwargs)
            return recorder.run(layer, call, args, kwargs)

        # Past Keras's attribute tracking: the taps are no part of the layer's state.
        object.__setattr__(layer, "call", tapped_call)
        activation = getattr(layer, "activation", None)
        if rule.ends_with_activation and activation is not None:

            def tapped_activation(tensor):
                recorder = _active()
                if recorder is not None and recorder.records(layer):
                    recorder.pre_activation(tensor)
                return activation(tensor)

            tapped_activation.wrapped = activation
            object.__setattr__(layer, "activation", tapped_activation)


def _uninstall(layer: keras.layers.Layer) -> None:
    with _install_lock:
        count, _ = _installed.pop(id(layer))
        if count > 1:
            _installed[id(layer)] = (count - 1, layer)
            return
        object.__delattr__(layer, "call")
        activation = layer.__dict__.get("activation")
        wrapped = getattr(activation, "wrapped", None)
        if wrapped is not None:
            object.__setattr__(layer, "activation", wrapped)
