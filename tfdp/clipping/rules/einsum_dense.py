"""EinsumDense layers, and with them the projections of attention layers."""

from __future__ import annotations

import string

import keras
import tensorflow as tf

from tfdp.clipping.per_example import Instantiated, PerExampleGradient, accumulation_dtype
from tfdp.clipping.registry import Call, Context, Rule, register_rule
from tfdp.clipping.rules.products import BATCH, kernel_gradient, lora_gradients


@register_rule(keras.layers.EinsumDense)
class EinsumDenseRule(Rule):
    """``activation(einsum(equation, inputs, kernel) + bias)``."""

    ends_with_activation = True

    def refusal(self, layer: keras.layers.EinsumDense) -> str | None:
        if getattr(layer, "quantization_mode", None) is not None:
            return "it is quantized"
        inputs, kernel, outputs = _terms(layer.equation)
        if inputs[0] != outputs[0] or inputs[0] in kernel:
            return f"the batch is not the first axis on both sides of {layer.equation!r}"
        for term in (inputs, kernel, outputs):
            if len(set(term.replace("...", ""))) != len(term.replace("...", "")):
                return f"an axis is repeated in {layer.equation!r}"
        return None

    def gradients(self, call: Call, cotangent: tf.Tensor, context: Context):
        layer, inputs = call.layer, call.input
        input_labels, kernel_labels, output_labels = axis_labels(
            layer.equation, inputs.shape.rank, cotangent.shape.rank
        )
        if layer.lora_enabled:
            yield from lora_gradients(
                layer, inputs, input_labels, kernel_labels, cotangent, output_labels
            )
        else:
            yield (
                layer.kernel,
                kernel_gradient(inputs, input_labels, cotangent, output_labels, kernel_labels),
            )
        if layer.bias is not None:
            yield layer.bias, bias_gradient(cotangent, tuple(layer.bias.shape))


def _terms(equation: str) -> tuple[str, str, str]:
    left, outputs = equation.replace(" ", "").split("->")
    inputs, kernel = left.split(",")
    return inputs, kernel, outputs


def axis_labels(equation: str, input_rank: int, output_rank: int) -> tuple[str, str, str]:
    """Labels of inputs, kernel and outputs, with the ellipsis written out and the batch ``"A"``."""
    inputs, kernel, outputs = _terms(equation)
    used = set(equation) | {BATCH, "Z"}
    free = [letter for letter in string.ascii_letters if letter not in used]
    if "..." in inputs:
        count = input_rank - len(inputs) + 3
        if outputs.startswith("..."):  # The batch is among the axes of the ellipsis.
            return tuple(
                term.replace("...", BATCH + "".join(free[: count - 1]))
                for term in (inputs, kernel, outputs)
            )
        inputs, outputs = (t.replace("...", "".join(free[:count])) for t in (inputs, outputs))
    batch = inputs[0]
    return tuple(term.replace(batch, BATCH) for term in (inputs, kernel, outputs))


def bias_gradient(cotangent: tf.Tensor, shape: tuple[int, ...]) -> PerExampleGradient:
    """Per-example gradients of a bias of ``shape`` that was broadcast over the cotangent."""
    cotangent = tf.cast(cotangent, accumulation_dtype(cotangent.dtype))
    rank = cotangent.shape.rank
    first = rank - len(shape)
    ones = [first + i for i, size in enumerate(shape) if size == 1]
    axes = [axis for axis in [*range(1, first), *ones] if axis > 0]
    gradient = tf.reduce_sum(cotangent, axis=axes, keepdims=True) if axes else cotangent
    return Instantiated(tf.reshape(gradient, [tf.shape(gradient)[0], *shape]), method="sum")
