"""Checks of a model before private training, and the remedy for batch normalization."""

from __future__ import annotations

import keras

BATCH_NORMALIZATION_REMEDY = (
    "Replace it by keras.layers.GroupNormalization, in functional and sequential models with "
    "`model = tfdp.replace_batch_normalization(model)`."
)


def check_model(model: keras.Model) -> None:
    """Refuses a model that cannot be trained privately as it is.

    Args:
        model: The model.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If a layer mixes the examples of a batch, or the model brings a training step
            or loss computation of its own; the message names the layer and the remedy.
    """
    if keras.config.backend() != "tensorflow":
        raise ValueError(
            "tfdp trains on the TensorFlow backend of Keras: set KERAS_BACKEND=tensorflow before "
            f"Keras is imported. Received: backend={keras.config.backend()!r}"
        )
    if not isinstance(model, keras.Model):
        raise TypeError(f"model must be a keras.Model. Received: model={model!r}")
    for method in ("train_step", "compute_loss"):
        if getattr(type(model), method) is not getattr(keras.Model, method):
            raise ValueError(
                f"{type(model).__name__} has a `{method}` of its own, which a private training "
                "step would not run. Give the loss to `compile` instead. "
                f"Received: model={model.name!r}"
            )
    for layer in model._flatten_layers():
        # A frozen one uses its moving statistics: each example is by itself.
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable:
            raise ValueError(
                f"Layer '{layer.name}' (BatchNormalization) makes one example's output depend on "
                "the others, so that no bound on one example's gradient protects it. "
                f"{BATCH_NORMALIZATION_REMEDY} Received: model={model.name!r}"
            )
        if getattr(layer, "activity_regularizer", None) is not None:
            raise ValueError(
                f"Layer '{layer.name}' ({type(layer).__name__}) has an activity regularizer, a "
                "loss over the whole batch. Remove it, or add the penalty to the per-example loss "
                f"given to `compile`. Received: model={model.name!r}"
            )


def replace_batch_normalization(model: keras.Model, groups: int = 16) -> keras.Model:
    """A copy of a functional or sequential model with GroupNormalization for BatchNormalization.

    All other layers keep their weights. The new layers normalize each example by itself over
    groups of channels; their scale and offset are taken over.

    Args:
        model: A built functional or sequential model.
        groups: Wanted number of groups; each layer takes the largest number up to it that divides
            its channels. Defaults to 16.

    Returns:
        The copy.

    Raises:
        TypeError: If ``model`` is not functional or sequential.
    """
    if not has_layer_graph(model):
        raise TypeError(
            "replace_batch_normalization copies functional and sequential models; in a subclassed "
            "model use keras.layers.GroupNormalization in place of BatchNormalization. "
            f"Received: model={model!r}"
        )

    def clone(layer):
        if isinstance(layer, keras.Model) and has_layer_graph(layer):
            return replace_batch_normalization(layer, groups)
        if not isinstance(layer, keras.layers.BatchNormalization):
            return type(layer).from_config(layer.get_config())
        return keras.layers.GroupNormalization(
            groups=_largest_divisor(_channels(layer), groups),
            axis=layer.axis,
            epsilon=layer.epsilon,
            center=layer.center,
            scale=layer.scale,
            name=layer.name,
        )

    def call(layer, *args, **kwargs):
        if isinstance(layer, keras.layers.GroupNormalization):
            kwargs = {}  # BatchNormalization's: training, mask.
        return layer(*args, **kwargs)

    calls = {} if isinstance(model, keras.Sequential) else {"call_function": call}
    copy = keras.models.clone_model(model, clone_function=clone, **calls)
    for old, new in zip(model.layers, copy.layers, strict=True):
        if isinstance(old, keras.layers.BatchNormalization):
            kept = ([old.gamma] if old.scale else []) + ([old.beta] if old.center else [])
            new.set_weights([weight.numpy() for weight in kept])
        elif not isinstance(old, keras.Model):
            new.set_weights(old.get_weights())
    return copy


def has_layer_graph(model: keras.Model) -> bool:
    """Whether a model is functional or sequential, so that its layers and shapes are known."""
    return isinstance(model, keras.Sequential) or hasattr(model, "operations")


def _channels(layer: keras.layers.BatchNormalization) -> int:
    return int(layer.moving_mean.shape[0])


def _largest_divisor(number: int, at_most: int) -> int:
    return max(d for d in range(1, min(number, at_most) + 1) if number % d == 0)
