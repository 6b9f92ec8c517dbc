"""tensorflow-privacy 0.9.0 on the Keras 2 of TensorFlow 2.15.1."""

from collections.abc import Callable

import cases
import tensorflow as tf
import tensorflow_privacy
from frameworks import keras_models
from tensorflow_privacy.privacy.fast_gradient_clipping import layer_registry
from tensorflow_privacy.privacy.fast_gradient_clipping.registry_functions import (
    einsum_dense,
    layer_normalization,
    multi_head_attention,
)

PACKAGES = ("tensorflow", "tensorflow-privacy")
METHODS = ("vectorized optimizer", "DPModel", "DPModel XLA", "DPModel registry")


class LoraEinsumDense(tf.keras.layers.Layer):
    """A frozen `EinsumDense` plus a trained product of two factors; Keras 2 has no LoRA itself."""

    def __init__(self, base: tf.keras.layers.EinsumDense, rank: int) -> None:
        super().__init__()
        base.trainable = False
        self._base = base
        shape = base.kernel.shape
        self._a = self.add_weight("lora_a", (*shape[:-1], rank))
        self._b = self.add_weight("lora_b", (rank, shape[-1]), initializer="zeros")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """The base's output plus that of the product of the factors."""
        return self._base(inputs) + tf.einsum(
            self._base.equation, inputs, tf.tensordot(self._a, self._b, 1)
        )


def _enable_lora(model: tf.keras.Model, rank: int) -> None:
    for layer in model.layers:
        if not isinstance(layer, tf.keras.layers.MultiHeadAttention):
            layer.trainable = False
            continue
        for name in ("_query_dense", "_key_dense", "_value_dense", "_output_dense"):
            setattr(layer, name, LoraEinsumDense(getattr(layer, name), rank))


def _model(case: cases.Case) -> tf.keras.Model:
    model = keras_models.build(tf.keras, case)
    if case.lora_rank:
        _enable_lora(model, case.lora_rank)
    return model


def num_parameters(case: cases.Case) -> int:
    """Number of trainable parameters of the model of `case`."""
    return sum(int(tf.size(variable)) for variable in _model(case).trainable_variables)


def _registry() -> layer_registry.LayerRegistry:
    """Every rule of tensorflow-privacy for layers of Keras, not just the default two."""
    registry = layer_registry.make_default_layer_registry()
    layers = tf.keras.layers
    registry.insert(layers.EinsumDense, einsum_dense.einsum_layer_computation)
    registry.insert(layers.LayerNormalization, layer_normalization.layer_normalization_computation)
    registry.insert(
        layers.MultiHeadAttention, multi_head_attention.multi_head_attention_layer_computation
    )
    return registry


def _private_model(case: cases.Case, method: str) -> tf.keras.Model:
    model = _model(case)
    if method == "vectorized optimizer":
        optimizer = tensorflow_privacy.VectorizedDPKerasSGDOptimizer(
            l2_norm_clip=cases.L2_NORM_CLIP,
            noise_multiplier=cases.NOISE_MULTIPLIER,
            num_microbatches=case.batch_size,
            learning_rate=cases.LEARNING_RATE,
        )
        loss = tf.keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction=tf.keras.losses.Reduction.NONE
        )
        model.compile(optimizer=optimizer, loss=loss)
        return model
    private = tensorflow_privacy.DPModel(
        l2_norm_clip=cases.L2_NORM_CLIP,
        noise_multiplier=cases.NOISE_MULTIPLIER,
        use_xla=method == "DPModel XLA",
        layer_registry=_registry() if method == "DPModel registry" else None,
        inputs=model.inputs,
        outputs=model.outputs,
    )
    if method == "DPModel registry" and not private._enable_fast_peg_computation:
        raise NotImplementedError("a layer has no rule in the registry: the same as DPModel")
    _compile_ordinarily(private)
    return private


def _compile_ordinarily(model: tf.keras.Model) -> None:
    model.compile(
        optimizer=tf.keras.optimizers.SGD(cases.LEARNING_RATE),
        loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )


def _on_one_batch(model: tf.keras.Model, case: cases.Case) -> Callable[[], object]:
    x, y = map(tf.constant, case.batch())
    return lambda: model.train_on_batch(x, y)


def ordinary_step(case: cases.Case, method: str) -> Callable[[], object]:
    """One ordinary step a call."""
    del method  # all have the same one
    model = _model(case)
    _compile_ordinarily(model)
    return _on_one_batch(model, case)


def private_step(case: cases.Case, method: str) -> Callable[[], object]:
    """One private step a call."""
    return _on_one_batch(_private_model(case, method), case)
