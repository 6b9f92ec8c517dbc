"""Clipping by a whole-model ``tf.vectorized_map``: slow, right for any model, the reference."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from tfdp.clipping.bounds import Clipper
from tfdp.clipping.engine import Engine, LayerReport
from tfdp.clipping.per_example import Instantiated
from tfdp.clipping.plan import check_no_added_losses


class VectorizedEngine(Engine):
    """Differentiates the whole model for each example by itself, in parallel.

    Holds ``batch x weights`` numbers. Every example is given seeds of its own for the model's
    random layers, so that dropout masks differ between examples as they do in an ordinary batch.

    Args:
        model: A built model.
        clipper: The clip bound for its variables.
        views: As of `Engine`.

    Example:
        >>> import keras, tensorflow as tf, tfdp
        >>> model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        >>> engine = VectorizedEngine(model, tfdp.clipping.ClipBound(1.0).resolve(model))
        >>> x = tf.constant([[0.5], [3.0]])  # For this loss the inputs are the gradients.
        >>> engine(x, x, None, lambda y, y_pred, weights: tf.reduce_sum(y_pred, 1)).norms.numpy()
        array([0.5, 3. ], dtype=float32)
    """

    def __init__(self, model: keras.Model, clipper: Clipper, views: Any = None):
        super().__init__(model, clipper, views)
        self.reports = [
            LayerReport(
                layer=variable.path.rsplit("/", 1)[0],
                variable=variable.path,
                weights=math.prod(variable.shape),
                positions=None,
                method="vectorized",
                floats_per_example=math.prod(variable.shape),
            )
            for variable in model.trainable_variables
        ]
        self.floats_per_example = sum(report.floats_per_example for report in self.reports)

    def _differentiate(self, x, y, sample_weight, loss_fn):
        variables = self._model.trainable_variables
        seeds = seed_states(self._model)
        batch = tf.shape(keras.tree.flatten(x)[0])[0]
        data = keras.tree.flatten((x, y, sample_weight))
        present = [tensor is not None for tensor in data]
        elements = [tensor for tensor in data if tensor is not None]

        def one_example(row):
            row_data, row_seeds = row
            remaining = iter(row_data)
            flat = [next(remaining)[None] if there else None for there in present]
            one_x, one_y, one_weight = keras.tree.pack_sequence_as((x, y, sample_weight), flat)
            mapping = list(zip(seeds, row_seeds, strict=True))
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch([variable.value for variable in variables])
                with keras.StatelessScope(state_mapping=mapping, collect_losses=True):
                    y_pred = self._model(one_x, training=True)
                    check_no_added_losses(self._model)
                loss = tf.reduce_sum(loss_fn(one_y, y_pred, one_weight))
            gradients = tape.gradient(
                loss,
                [variable.value for variable in variables],
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
            return gradients, loss, keras.tree.map_structure(lambda t: t[0], y_pred)

        gradients, losses, y_pred = tf.vectorized_map(
            one_example, (elements, _fresh_seeds(seeds, batch))
        )
        return [self._merged(Instantiated(g)) for g in gradients], losses, y_pred


def seed_states(model: keras.Model) -> list[keras.Variable]:
    """State variables of the seed generators of a model's random layers."""
    states = []
    for layer in model._flatten_layers():
        generators = [
            value for value in vars(layer).values() if isinstance(value, keras.random.SeedGenerator)
        ]
        states += [generator.state for generator in generators]
    return states


def _fresh_seeds(states: list[keras.Variable], batch: tf.Tensor) -> list[tf.Tensor]:
    """A seed for every example from each generator, which is moved on."""
    seeds = []
    for state in states:
        seed = tf.convert_to_tensor(state.value)
        rows = tf.random.stateless_uniform(
            [batch + 1, 2], tf.cast(seed, tf.int32), minval=None, maxval=None, dtype=tf.uint32
        )
        state.assign(rows[batch])
        seeds.append(rows[:batch])
    return seeds
