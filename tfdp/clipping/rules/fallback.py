"""Layers without a rule of their own: the layer is run again, alone, example by example."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfdp.clipping.per_example import Instantiated
from tfdp.clipping.registry import Call, Context, Rule


class FallbackRule(Rule):
    """Vector-Jacobian products of one layer in a ``tf.vectorized_map`` over the batch.

    Serves layers whose weights are used where no recorder can look: inside the loop of a
    recurrent layer, or by a user's own code. It holds ``batch x weights`` of that layer. It takes
    every tensor that the layer is called with to have the batch as its first axis.
    """

    def refusal(self, layer: keras.layers.Layer) -> str | None:
        if isinstance(layer, keras.layers.SpectralNormalization):
            return "it changes its weights in every forward pass"
        for part in layer._flatten_layers():
            if _draws_random_numbers(part):
                inside = "" if part is layer else f" inside it '{part.name}'"
                return (
                    "it owns weights and draws random numbers" + inside + ", which a second run "
                    "would draw anew (put Dropout in a layer of its own)"
                )
        return None

    def gradients(self, call: Call, cotangent, context: Context):
        layer = call.layer
        variables = layer.trainable_variables
        inputs = keras.tree.flatten((call.args, call.kwargs))
        batched = [isinstance(t, tf.Tensor) and t.shape.rank != 0 for t in inputs]
        masks = [getattr(t, "_keras_mask", None) for t in inputs]
        used = [c is not None for c in keras.tree.flatten(cotangent)]

        def one_example(row):
            rows, row_masks, row_cotangents = row
            rows, row_masks = iter(rows), iter(row_masks)
            flat = []
            for tensor, is_batched, mask in zip(inputs, batched, masks, strict=True):
                flat.append(next(rows)[None] if is_batched else tensor)
                if mask is not None:
                    flat[-1]._keras_mask = next(row_masks)[None]
            args, kwargs = keras.tree.pack_sequence_as((call.args, call.kwargs), flat)
            values = [variable.value for variable in variables]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(values)
                outputs = keras.tree.flatten(layer(*args, **kwargs))
                outputs = [output for output, use in zip(outputs, used, strict=True) if use]
            gradients = tape.gradient(
                outputs,
                values,
                output_gradients=[c[None] for c in row_cotangents],
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            return [tf.convert_to_tensor(gradient) for gradient in gradients]

        rows = (
            [t for t, is_batched in zip(inputs, batched, strict=True) if is_batched],
            [mask for mask in masks if mask is not None],
            [c for c in keras.tree.flatten(cotangent) if c is not None],
        )
        gradients = tf.vectorized_map(one_example, rows)
        for variable, gradient in zip(variables, gradients, strict=True):
            gradient = tf.ensure_shape(gradient, [None, *variable.shape])
            yield variable, Instantiated(gradient, method="run again (vectorized_map)")


def _draws_random_numbers(layer: keras.layers.Layer) -> bool:
    generators = [v for v in vars(layer).values() if isinstance(v, keras.random.SeedGenerator)]
    if not generators:
        return False
    # Recurrent cells always hold a generator and use it only at a positive rate.
    rates = [getattr(layer, name, None) for name in ("rate", "dropout", "recurrent_dropout")]
    rates = [rate for rate in rates if rate is not None]
    return not rates or any(rates)


FALLBACK = FallbackRule()
