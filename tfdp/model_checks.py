"""Checks of a model before private training, and the remedy for batch normalization."""

from __future__ import annotations

import keras

from tfdp import _validate

BATCH_NORMALIZATION_REMEDY = (
    "Replace it by keras.layers.GroupNormalization, in functional and sequential models with "
    "`model = tfdp.replace_batch_normalization(model)`."
)

# Layers whose `axis` says along which axes they sum.
_ALONG_AXES = (
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
    keras.layers.Softmax,
    keras.layers.UnitNormalization,
)
_BLENDING = (keras.layers.CutMix, keras.layers.MixUp)


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
        if isinstance(layer, _ALONG_AXES) and 0 in _axes(layer):
            raise ValueError(
                f"Layer '{layer.name}' ({type(layer).__name__}) works along the axis of the "
                "examples, so that one example's output depends on the others. Give it other axes. "
                f"Received: model={model.name!r}, with axis={layer.axis!r}"
            )
        if isinstance(layer, _BLENDING):
            raise ValueError(
                f"Layer '{layer.name}' ({type(layer).__name__}) blends each example with another. "
                "Remove it: images can be augmented one by one. "
                f"Received: model={model.name!r}"
            )
        if getattr(layer, "activity_regularizer", None) is not None:
            raise ValueError(
                f"Layer '{layer.name}' ({type(layer).__name__}) has an activity regularizer, a "
                "loss over the whole batch. Remove it, or add the penalty to the per-example loss "
                f"given to `compile`. Received: model={model.name!r}"
            )


def replace_batch_normalization(model: keras.Model, groups: int = 16) -> keras.Model:
    """A copy of a functional or sequential model with GroupNormalization for BatchNormalization.

    All other layers keep their weights, and layers that are shared stay so. The new layers
    normalize each example by itself over groups of channels; their scale, offset and settings are
    taken over.

    Args:
        model: A built functional or sequential model, which may have others of these inside.
        groups: Wanted number of groups; each layer takes the largest number up to it that divides
            its channels. Defaults to 16.

    Returns:
        The copy.

    Raises:
        TypeError: If ``model`` is not functional or sequential, or ``groups`` not an integer.
        ValueError: If ``model`` is not built or has a BatchNormalization inside a layer of another
            kind, or ``groups`` is out of range.

    Example:
        >>> import keras, tfdp
        >>> model = keras.Sequential([
        ...     keras.Input((8, 8, 3)), keras.layers.Conv2D(12, 3),
        ...     keras.layers.BatchNormalization()])
        >>> copy = tfdp.replace_batch_normalization(model)
        >>> type(copy.layers[-1]).__name__, copy.layers[-1].groups
        ('GroupNormalization', 12)

    References:
        - Wu and He 2018, "Group Normalization", arXiv:1803.08494.
    """
    groups = _validate.integer("groups", groups, minimum=1)
    if not has_layer_graph(model):
        raise TypeError(
            "replace_batch_normalization copies functional and sequential models; in a subclassed "
            "model use keras.layers.GroupNormalization in place of BatchNormalization. "
            f"Received: model={model!r}"
        )
    if not model.built:
        raise ValueError(
            "The channels of `model` are not known before it is built. "
            f"Received: model={model.name!r}, not built"
        )
    clones = []

    def clone(layer):
        clones.append((layer, _without_batch_normalization(layer, groups)))
        return clones[-1][1]

    def call(layer, *args, **kwargs):
        if isinstance(layer, keras.layers.GroupNormalization):
            kwargs = {}  # BatchNormalization's: training, mask.
        return layer(*args, **kwargs)

    calls = {} if isinstance(model, keras.Sequential) else {"call_function": call}
    copy = keras.models.clone_model(model, clone_function=clone, recursive=True, **calls)
    for old, new in clones:
        if isinstance(old, keras.layers.BatchNormalization):
            kept = ([old.gamma] if old.scale else []) + ([old.beta] if old.center else [])
            new.set_weights([weight.numpy() for weight in kept])
        elif isinstance(old, keras.layers.Layer):
            new.set_weights(old.get_weights())
            if isinstance(old, keras.layers.Normalization):
                new.finalize_state()  # Works out what it calls with from its weights.
    return copy


def _without_batch_normalization(layer: keras.Operation, groups: int) -> keras.Operation:
    """A new layer of the same settings, with no weights yet."""
    if isinstance(layer, keras.layers.BatchNormalization):
        names = keras.layers.GroupNormalization().get_config().keys()
        config = {name: v for name, v in layer.get_config().items() if name in names}
        config["groups"] = _largest_divisor(int(layer.moving_mean.shape[0]), groups)
        return keras.layers.GroupNormalization.from_config(config)
    if isinstance(layer, keras.layers.Lambda):  # Keras reads no functions from settings.
        return keras.layers.Lambda(
            layer.function,
            output_shape=layer._output_shape,
            mask=layer.mask,
            arguments=layer.arguments,
            name=layer.name,
            dtype=layer.dtype_policy,
        )
    if isinstance(layer, keras.layers.Layer):
        for inner in layer._flatten_layers(include_self=False):
            if isinstance(inner, keras.layers.BatchNormalization):
                raise ValueError(
                    f"Layer '{inner.name}' (BatchNormalization) is inside layer '{layer.name}' "
                    f"({type(layer).__name__}), which alone can replace it: use "
                    "keras.layers.GroupNormalization there."
                )
    return type(layer).from_config(layer.get_config())


def has_layer_graph(model: keras.Model) -> bool:
    """Whether a model is functional or sequential, so that its layers and shapes are known."""
    return isinstance(model, keras.Sequential) or hasattr(model, "operations")


def _axes(layer: keras.layers.Layer) -> tuple[int, ...]:
    return (layer.axis,) if isinstance(layer.axis, int) else tuple(layer.axis)


def _largest_divisor(number: int, at_most: int) -> int:
    return max(d for d in range(1, min(number, at_most) + 1) if number % d == 0)
