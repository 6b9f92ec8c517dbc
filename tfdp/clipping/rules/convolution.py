"""Two-dimensional convolution."""

from __future__ import annotations

import keras
import tensorflow as tf

from tfdp.clipping.per_example import Instantiated, OuterProduct, gram_is_cheaper
from tfdp.clipping.registry import Call, Context, Rule, register_rule
from tfdp.clipping.rules.dense import flatten_positions, sum_over_positions


@register_rule(keras.layers.Conv2D)
class Conv2DRule(Rule):
    """``activation(conv(inputs, kernel) + bias)``, channels last.

    A convolution is a dense layer on patches, so its kernel's per-example gradients are outer
    products of patches and output gradients. Early layers have many positions and small kernels:
    on a CPU one filter gradient an example, made without patches, is faster there.
    """

    ends_with_activation = True

    def refusal(self, layer: keras.layers.Conv2D) -> str | None:
        if getattr(layer, "lora_enabled", False):
            return "its LoRA factors have no rule"
        if layer.groups != 1:
            return f"it is a grouped convolution (groups={layer.groups})"
        if layer.data_format != "channels_last":
            return f"its data_format is {layer.data_format!r}"
        return None

    def gradients(self, call: Call, cotangent: tf.Tensor, context: Context):
        layer, inputs = call.layer, call.args[0]
        height, width, channels, filters = layer.kernel.shape
        rows, columns = cotangent.shape[1:3]
        positions = rows * columns if rows and columns else None
        dilated = max(layer.dilation_rate) > 1  # No filter gradient for these on a CPU.
        late = gram_is_cheaper(positions, height * width * channels, filters)
        if context.loop and not dilated and not late:
            gradient = filter_gradients_by_loop(layer, inputs, cotangent)
            kernel = Instantiated(gradient, method="example loop", positions=positions)
        else:
            kernel = OuterProduct(patches(layer, inputs), flatten_positions(cotangent))
        yield layer.kernel, kernel
        if layer.use_bias:
            yield layer.bias, sum_over_positions(cotangent)


def patches(layer: keras.layers.Conv2D, inputs: tf.Tensor) -> tf.Tensor:
    """What each output position sees, ``(batch, positions, height * width * channels)``."""
    return flatten_positions(
        tf.image.extract_patches(
            inputs,
            sizes=[1, *layer.kernel_size, 1],
            strides=[1, *layer.strides, 1],
            rates=[1, *layer.dilation_rate, 1],
            padding=layer.padding.upper(),
        )
    )


def filter_gradients_by_loop(
    layer: keras.layers.Conv2D, inputs: tf.Tensor, cotangent: tf.Tensor
) -> tf.Tensor:
    """Kernel gradients one example after another, ``(batch, *kernel)``."""
    shape = tuple(layer.kernel.shape)
    batch = tf.shape(inputs)[0]
    gradients = tf.TensorArray(inputs.dtype, size=batch, element_shape=shape)

    def example(i, gradients):
        gradient = tf.raw_ops.Conv2DBackpropFilter(
            input=inputs[i : i + 1],
            filter_sizes=shape,
            out_backprop=cotangent[i : i + 1],
            strides=[1, *layer.strides, 1],
            padding=layer.padding.upper(),
        )
        return i + 1, gradients.write(i, gradient)

    _, gradients = tf.while_loop(lambda i, _: i < batch, example, (0, gradients))
    return gradients.stack()
