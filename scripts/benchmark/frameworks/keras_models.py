"""The architectures in Keras, for every framework that trains Keras models.

The functions take the `keras` module as an argument: Keras 3 with any backend, or the `tf.keras` of
TensorFlow 2.15. They use only what the two have in common.
"""

from typing import Any

import cases


def build(keras: Any, case: cases.Case) -> Any:
    """The functional model of `case`, with logits as output, and without its LoRA."""
    inputs = keras.Input(case.input_shape, dtype="int32" if case.vocabulary else "float32")
    outputs = _ARCHITECTURES[case.architecture](keras.layers, case, inputs)
    return keras.Model(inputs, outputs)


def _mnist_cnn(layers: Any, case: cases.Case, x: Any) -> Any:
    x = layers.Conv2D(16, 8, strides=2, padding="same", activation="tanh")(x)
    x = layers.MaxPooling2D(2, strides=1)(x)
    x = layers.Conv2D(32, 4, strides=2, padding="valid", activation="tanh")(x)
    x = layers.MaxPooling2D(2, strides=1)(x)
    x = layers.Dense(32, activation="tanh")(layers.Flatten()(x))
    return layers.Dense(case.num_classes)(x)


def _cifar_cnn(layers: Any, case: cases.Case, x: Any) -> Any:
    for width in cases.CIFAR_WIDTHS:
        for _ in range(2):
            x = layers.Conv2D(width, 3, padding="same", activation="tanh")(x)
        x = layers.AveragePooling2D(2)(x)
    x = layers.Conv2D(256, 3, padding="same", activation="tanh")(x)
    x = layers.Conv2D(case.num_classes, 3, padding="same")(x)
    return layers.GlobalAveragePooling2D()(x)


def _mlp(layers: Any, case: cases.Case, x: Any) -> Any:
    for width in cases.MLP_WIDTHS:
        x = layers.Dense(width, activation="relu")(x)
    return layers.Dense(case.num_classes)(x)


def _wide_resnet(layers: Any, case: cases.Case, x: Any) -> Any:
    def pre_activation_conv(x: Any, width: int, kernel: int, stride: int) -> Any:
        x = layers.ReLU()(x)
        x = layers.GroupNormalization(cases.NORM_GROUPS, epsilon=cases.NORM_EPSILON)(x)
        return layers.Conv2D(width, kernel, strides=stride, padding="same")(x)

    x = layers.Conv2D(cases.WIDE_RESNET_STEM, 3, padding="same")(x)
    channels = cases.WIDE_RESNET_STEM
    for stage, width in enumerate(cases.WIDE_RESNET_WIDTHS):
        for block in range(cases.WIDE_RESNET_BLOCKS):
            stride = 2 if stage and not block else 1
            shortcut = x
            if channels != width:
                shortcut = pre_activation_conv(x, width, 1, stride)
            x = pre_activation_conv(x, width, 3, stride)
            x = pre_activation_conv(x, width, 3, 1)
            x = layers.Add()([x, shortcut])
            channels = width
    x = layers.ReLU()(x)
    x = layers.GroupNormalization(cases.NORM_GROUPS, epsilon=cases.NORM_EPSILON)(x)
    return layers.Dense(case.num_classes)(layers.GlobalAveragePooling2D()(x))


def _transformer(layers: Any, case: cases.Case, x: Any) -> Any:
    sizes = cases.TRANSFORMER
    x = layers.Embedding(case.vocabulary, sizes.width)(x)
    x = x + cases.positions(*case.input_shape, sizes.width)
    for _ in range(sizes.layers):
        y = layers.LayerNormalization(epsilon=cases.NORM_EPSILON)(x)
        y = layers.MultiHeadAttention(sizes.heads, sizes.width // sizes.heads)(y, y)
        x = layers.Add()([x, y])
        y = layers.LayerNormalization(epsilon=cases.NORM_EPSILON)(x)
        y = layers.Dense(sizes.hidden, activation="gelu")(y)
        x = layers.Add()([x, layers.Dense(sizes.width)(y)])
    x = layers.LayerNormalization(epsilon=cases.NORM_EPSILON)(x)
    return layers.Dense(case.num_classes)(layers.GlobalAveragePooling1D()(x))


_ARCHITECTURES = {
    "mnist_cnn": _mnist_cnn,
    "cifar_cnn": _cifar_cnn,
    "mlp": _mlp,
    "wide_resnet": _wide_resnet,
    "transformer": _transformer,
}


def enable_lora(model: Any, rank: int) -> None:
    """Keras 3's LoRA on the attention projections of `model`; everything else is frozen."""
    for layer in model.layers:
        projections = [
            getattr(layer, f"_{name}_dense", None) for name in ("query", "key", "value", "output")
        ]
        if not all(projections):
            layer.trainable = False
            continue
        for projection in projections:
            projection.enable_lora(rank)
            projection.bias.trainable = False
