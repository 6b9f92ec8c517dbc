"""An engine compiled by XLA for one physical batch size."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdp.clipping.engine import ClippedGradients, Engine, PerExampleLossFn


class CompiledEngine:
    """Runs another engine under XLA.

    XLA compiles for fixed shapes, and Poisson batches differ in size: batches are padded with
    zeros to one size, and padding rows get the clip factor 0. So there is one compilation.

    Args:
        engine: The engine.
        physical_batch_size: The size that is compiled; no batch may be longer.

    Example:
        >>> import keras, tensorflow as tf, tfdp
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        >>> clipper = tfdp.clipping.ClipBound(1.0).resolve(model)
        >>> plan = tfdp.clipping.make_plan(model)
        >>> context = tfdp.clipping.Context(loop=False)
        >>> engine = tfdp.clipping.RecordingEngine(model, clipper, plan, context)
        >>> compiled = CompiledEngine(engine, physical_batch_size=4)
        >>> x = tf.constant([[0.5], [3.0]])  # For this loss the inputs are the gradients.
        >>> clipped = compiled(x, x, None, lambda y, y_pred, weights: tf.reduce_sum(y_pred, 1))
        >>> clipped.sums[0].numpy()
        array([[1.5]], dtype=float32)
    """

    def __init__(self, engine: Engine, physical_batch_size: int):
        self._engine = engine
        self._size = physical_batch_size

    @property
    def reports(self) -> list:
        """The `LayerReport` of each variable and use, after the first call."""
        return self._engine.reports

    @property
    def floats_per_example(self) -> int:
        """Numbers held for one example, as far as they are known."""
        return self._engine.floats_per_example

    def __call__(
        self,
        x: Any,
        y: Any,
        sample_weight: Any,
        loss_fn: PerExampleLossFn,
        valid: tf.Tensor | None = None,
    ) -> ClippedGradients:
        data = (x, y, sample_weight)
        tensors = [tensor for tensor in keras.tree.flatten(data) if tensor is not None]
        length = tf.shape(tensors[0])[0]

        def pad(tensor):
            if tensor is None:
                return None
            missing = [[0, self._size - length]] + [[0, 0]] * (tensor.shape.rank - 1)
            return tf.ensure_shape(tf.pad(tensor, missing), [self._size, *tensor.shape[1:]])

        @tf.function(jit_compile=True, autograph=False)
        def run(padded, real):
            part_x, part_y, part_weight = padded
            clipped = self._engine(part_x, part_y, part_weight, loss_fn, valid=real)
            return tuple(vars(clipped).values())

        real = tf.range(self._size) < length if valid is None else pad(valid)
        sums, *rows = run(keras.tree.map_structure(pad, data), real)
        return ClippedGradients(sums, *keras.tree.map_structure(lambda t: t[:length], rows))
