"""Rules: how each layer family gives per-example gradients from what was recorded of it."""

from __future__ import annotations

import abc
import dataclasses
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import keras
import tensorflow as tf

from tfdp.clipping.per_example import PerExampleGradient


@dataclasses.dataclass
class Call:
    """One call of a layer in the forward pass.

    Attributes:
        layer: The layer.
        args: Positional arguments of the call, cast to the layer's compute dtype.
        kwargs: Keyword arguments of the call.
        output: What the layer returned; for layers that apply ``self.activation`` last, the
            pre-activation.

    Example:
        >>> import keras, tensorflow as tf
        >>> layer, x = keras.layers.Dense(2), tf.ones([4, 3])
        >>> call = Call(layer, args=(), kwargs={"inputs": x}, output=layer(x))
        >>> call.input.shape, call.output.shape
        (TensorShape([4, 3]), TensorShape([4, 2]))
    """

    layer: keras.layers.Layer
    args: tuple
    kwargs: dict[str, Any]
    output: Any

    @property
    def input(self) -> Any:
        """The layer's first argument, given by position or by name."""
        if self.args:
            return self.args[0]
        return self.kwargs[next(iter(inspect.signature(self.layer.call).parameters))]


@dataclasses.dataclass(frozen=True)
class Context:
    """What a rule may take into account when it chooses how to work.

    Attributes:
        loop: Whether a loop over single examples is a good way to use this device. True on a CPU
            without XLA, where it is faster than one large batched product.

    Example:
        >>> Context(loop=False)  # As on a GPU.
        Context(loop=False)
    """

    loop: bool = True


class Rule(abc.ABC):
    """Per-example gradients of one layer family.

    Subclass it and decorate with `register_rule`. A rule serves a layer class and those of its
    subclasses that do not override ``call``.

    Attributes:
        ends_with_activation: Whether the layer ends with ``self.activation``; then ``Call.output``
            is its argument. Defaults to ``False``.

    Example:
        >>> import keras
        >>> class Shift(keras.layers.Layer):
        ...     def build(self, shape):
        ...         self.offset = self.add_weight(shape=(shape[-1],), initializer="zeros")
        ...     def call(self, inputs):  # of shape (batch, features)
        ...         return inputs + self.offset
        >>> @register_rule(Shift)
        ... class ShiftRule(Rule):
        ...     def refusal(self, layer):
        ...         return None if layer.offset.shape[0] > 1 else "it has a single number"
        ...     def gradients(self, call, cotangent, context):
        ...         from tfdp.clipping import Instantiated
        ...         yield call.layer.offset, Instantiated(cotangent)
    """

    ends_with_activation = False

    def refusal(self, layer: keras.layers.Layer) -> str | None:
        """Why this rule cannot serve ``layer`` as it is configured; ``None`` if it can.

        Such a layer is run again example by example, or refused if that is not exact either.
        """
        del layer
        return None

    @abc.abstractmethod
    def gradients(
        self, call: Call, cotangent: tf.Tensor, context: Context
    ) -> Iterable[tuple[keras.Variable, PerExampleGradient]]:
        """Per-example gradients of the layer's trainable variables.

        Args:
            call: The recorded call.
            cotangent: Gradient of the summed per-example losses with respect to ``call.output``;
                row i is the gradient of example i's own loss.
            context: Properties of the device.

        Returns:
            Pairs of a variable and its gradients. Variables that are not trainable are ignored.
        """


_RULES: dict[type, Rule] = {}


def register_rule(layer_class: type) -> Callable[[type[Rule]], type[Rule]]:
    """Registers a `Rule` for a layer class: the extension point for users' own layers.

    Args:
        layer_class: The `keras.layers.Layer` subclass that the rule serves.

    Returns:
        A class decorator.

    Raises:
        TypeError: If ``layer_class`` is not a layer class or the decorated class is not a `Rule`.

    Formal guarantee: the clip bound holds for a model exactly if each rule that serves it returns
    the true per-example gradients of the function that the layer computes.

    Example:
        >>> import keras, tfdp
        >>> class Scale(keras.layers.Layer):
        ...     def build(self, shape):
        ...         self.factor = self.add_weight(shape=(shape[-1],), initializer="ones")
        ...     def call(self, inputs):
        ...         return inputs * self.factor
        >>> @tfdp.clipping.register_rule(Scale)
        ... class ScaleRule(tfdp.clipping.Rule):
        ...     def gradients(self, call, cotangent, context):
        ...         gradient = call.input * cotangent  # inputs of shape (batch, features)
        ...         yield call.layer.factor, tfdp.clipping.Instantiated(gradient)
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, keras.layers.Layer)):
        raise TypeError(
            f"register_rule needs a keras.layers.Layer class. Received: layer_class={layer_class!r}"
        )

    def register(rule_class: type[Rule]) -> type[Rule]:
        if not (isinstance(rule_class, type) and issubclass(rule_class, Rule)):
            raise TypeError(
                f"register_rule decorates a tfdp.clipping.Rule class. Received: {rule_class!r}"
            )
        _RULES[layer_class] = rule_class()
        return rule_class

    return register


def find_rule(layer: keras.layers.Layer) -> Rule | None:
    """The rule that serves ``layer``, or ``None``."""
    for ancestor in type(layer).__mro__:
        rule = _RULES.get(ancestor)
        if rule is not None:
            # An overridden `call` computes something the ancestor's rule knows nothing of.
            return rule if type(layer).call is ancestor.call else None
    return None
