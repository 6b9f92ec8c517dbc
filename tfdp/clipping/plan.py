"""Which layer's gradients come from which rule, decided once for a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import keras

from tfdp.clipping.registry import Rule, find_rule

REMEDY = (
    "Register a rule for it with `@tfdp.clipping.register_rule`, freeze the layer "
    '(`layer.trainable = False`), or use `tfdp.make_private(model, clipping="vectorized")`.'
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The rule of each layer that owns trainable weights.

    Attributes:
        rules: Rules by layer, in the model's order.
        refusals: What no rule can serve, in words; empty if the whole model is served.
    """

    rules: dict[keras.layers.Layer, Rule]
    refusals: tuple[str, ...]

    def check(self) -> None:
        """Raises ValueError if any layer cannot be served."""
        if self.refusals:
            raise ValueError(
                "Per-example gradients are not available for: "
                + "; ".join(self.refusals)
                + f". {REMEDY}"
            )


def make_plan(model: keras.Model) -> Plan:
    """Finds the rule of every layer of ``model`` that owns trainable weights.

    A layer without a rule is entered: each layer inside it is looked at by itself. What is left
    are weights that belong to a layer without a rule directly; they are refused by name.
    """
    rules: dict[keras.layers.Layer, Rule] = {}
    refusals: list[str] = []
    seen: set[int] = set()

    def visit(layer: keras.layers.Layer) -> None:
        if id(layer) in seen or not layer.trainable_variables:
            return
        seen.add(id(layer))
        rule = find_rule(layer)
        if rule is not None:
            reason = rule.refusal(layer)
            if reason is None:
                rules[layer] = rule
            else:
                refusals.append(f"layer {describe(layer)}: {reason}")
            return
        inner = layer._flatten_layers(include_self=False, recursive=False)
        inner = list(inner)
        own = variables_outside(layer, inner)
        if own:
            names = ", ".join(v.path for v in own)
            refusals.append(f"layer {describe(layer)}: no rule for its weights {names}")
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


def describe(layer: keras.layers.Layer) -> str:
    """A layer's name and class, for messages."""
    return f"'{layer.name}' ({type(layer).__name__})"
