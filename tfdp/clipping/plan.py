"""Which layer's gradients come from which rule, decided once for a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import keras

from tfdp.clipping.registry import Rule, find_rule
from tfdp.clipping.rules.fallback import FALLBACK

REMEDY = (
    "Register a rule for it with `@tfdp.clipping.register_rule`, freeze the layer "
    '(`layer.trainable = False`), or use `tfdp.make_private(model, clipping="vectorized")`.'
)

#: Layers that run others where their calls cannot be recorded: in a loop, or one step at a time.
OPAQUE = (keras.layers.RNN, keras.layers.Wrapper)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The rule of each layer that owns trainable weights.

    Attributes:
        rules: Rules by layer, in the model's order.
        refusals: What no rule can serve, in words; empty if the whole model is served.

    Example:
        >>> import keras
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="out")])
        >>> plan = make_plan(model)
        >>> [(layer.name, type(rule).__name__) for layer, rule in plan.rules.items()], plan.refusals
        ([('out', 'DenseRule')], ())
    """

    rules: dict[keras.layers.Layer, Rule]
    refusals: tuple[str, ...]

    def check(self) -> None:
        """Raises ValueError if any layer cannot be served."""
        if self.refusals:
            raise ValueError(
                "Per-example gradients are not available for "
                + "; ".join(self.refusals)
                + f". {REMEDY}"
            )


def make_plan(model: keras.Model) -> Plan:
    """Finds the rule of every layer of ``model`` that owns trainable weights.

    A layer with a rule is served by it. A layer without one is entered, and each layer inside it
    is looked at by itself, unless it owns weights directly or runs its inner layers in a loop:
    then the whole layer goes to the fallback, which runs it again. What even that cannot do
    exactly is refused by name.

    Args:
        model: A built model.

    Returns:
        The `Plan`, which may have refusals: ``plan.check()`` raises for them.

    Example:
        >>> import keras, tfdp
        >>> model = keras.Sequential([keras.Input((8, 4)), keras.layers.LSTM(3, name="lstm")])
        >>> plan = tfdp.clipping.make_plan(model)
        >>> [(layer.name, type(rule).__name__) for layer, rule in plan.rules.items()]
        [('lstm', 'FallbackRule')]
    """
    rules: dict[keras.layers.Layer, Rule] = {}
    refusals: list[str] = []
    seen: set[int] = set()

    def visit(layer: keras.layers.Layer) -> None:
        if id(layer) in seen or not layer.trainable_variables:
            return
        seen.add(id(layer))
        if getattr(layer, "_remat_mode", None):
            refusals.append(f"{describe(layer)}: it is computed again in the backward pass (remat)")
            return
        inner = list(layer._flatten_layers(include_self=False, recursive=False))
        own = variables_outside(layer, inner)
        rule = find_rule(layer)
        if rule is not None and rule.refusal(layer) is None:
            rules[layer] = rule
            for sublayer in inner:  # An activation can own weights.
                visit(sublayer)
        elif own and isinstance(layer, keras.Model):
            names = ", ".join(v.path for v in own)
            refusals.append(f"{describe(layer)}: the model itself owns weights ({names})")
        elif own or isinstance(layer, OPAQUE):
            reason = FALLBACK.refusal(layer)
            if reason is None:
                rules[layer] = FALLBACK
                seen.update(id(part) for part in layer._flatten_layers())
            else:
                refusals.append(f"{describe(layer)}: {reason}")
        else:
            for sublayer in inner:
                visit(sublayer)

    visit(model)
    return Plan(rules, tuple(refusals))


def variables_outside(
    layer: keras.layers.Layer, inner: Iterable[keras.layers.Layer]
) -> list[keras.Variable]:
    """Trainable variables of ``layer`` that belong to none of the layers in ``inner``."""
    covered = {id(v) for sublayer in inner for v in sublayer.trainable_variables}
    return [v for v in layer.trainable_variables if id(v) not in covered]


def check_no_added_losses(model: keras.Model) -> None:
    """Raises ValueError after a forward pass in which a layer called ``add_loss``."""
    for layer in model._flatten_layers():
        if layer._get_own_losses():
            raise ValueError(
                f"A loss was added with `add_loss` by {describe(layer)}: it is a loss of the whole "
                "batch, which cannot be bounded example by example. Return what it needs as an "
                "output of the model and give the loss to `compile`."
            )


def describe(layer: keras.layers.Layer) -> str:
    """A layer's name and class, for messages."""
    return f"layer '{layer.name}' ({type(layer).__name__})"
