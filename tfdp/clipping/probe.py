"""Checks, on a forward pass that is traced and never run, that recording sees all there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdp.clipping.plan import Plan, describe
from tfdp.clipping.recorder import Recorder
from tfdp.clipping.registry import Call

#: A batch size that no other axis of a model has by accident.
PROBE_BATCH_SIZE = 100_003
#: Stands for the other axes of unknown size while probing.
PROBE_LENGTH = 7


def check_recording(model: keras.Model, plan: Plan, x: Any) -> None:
    """Refuses models of which recorded layers do not tell every example's gradient.

    * A layer's output may not have the examples as its first axis. A table of positions, for
      instance, is often looked up once for all examples; row i of the gradient with respect to
      that output is then no gradient of example i. The model is traced on a batch of a size that
      cannot be mistaken.
    * Weights may be read outside of the layer that owns them: an output tied to an embedding.

    Args:
        model: A built model.
        plan: Its plan.
        x: Inputs: tensors, of which the shapes matter.

    Raises:
        ValueError: If there is such a layer or weight; the message names it and the remedy.
    """
    specs = keras.tree.map_structure(_probe_spec, x)
    calls: list[Call] = []
    outside: list[keras.Variable] = []

    def forward(inputs):
        with tf.GradientTape() as tape:
            with Recorder(plan.rules, tape, pause=True) as recorder:
                model(inputs, training=True)
        calls.extend(recorder.calls)
        read = {id(variable) for variable in tape.watched_variables()}
        outside.extend(v for v in model.trainable_variables if id(v.value) in read)

    # Not under tf.init_scope, which stops tapes, also new ones.
    tf.function(forward, autograph=False).get_concrete_function(specs)
    for call in calls:
        _check(call)
    if outside:
        raise ValueError(
            "Weights are used outside of a call of the layer that owns them, where it cannot be "
            f"recorded: {', '.join(v.path for v in outside)}. Use them through their layer "
            "(keras.layers.ReversibleEmbedding ties inputs and outputs), or use "
            '`tfdp.make_private(model, clipping="vectorized")`.'
        )


def _check(call: Call) -> None:
    for output in keras.tree.flatten(call.output):
        if not isinstance(output, tf.Tensor):
            raise ValueError(
                f"The output of {describe(call.layer)} is not a dense tensor, so its gradient "
                f"cannot be told by example. Received: {type(output).__name__}"
            )
        first: Sequence[int | None] = output.shape[:1]
        if list(first) not in ([PROBE_BATCH_SIZE], [None]):
            raise ValueError(
                f"The output of {describe(call.layer)}, of shape {tuple(output.shape)}, does not "
                "have the examples as its first axis, so its gradient cannot be told by example. "
                "Give the layer an input with a row for each example (positions: "
                "`keras.ops.broadcast_to(positions, (batch_size, length))`), or use "
                '`tfdp.make_private(model, clipping="vectorized")`.'
            )


def _probe_spec(tensor: tf.Tensor) -> tf.TensorSpec:
    rest = [PROBE_LENGTH if size is None else size for size in tensor.shape[1:]]
    return tf.TensorSpec([PROBE_BATCH_SIZE, *rest], tensor.dtype)
