"""Clip bounds: over all weights together, per layer, and automatic (normalizing)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from tfdp import _validate


@dataclasses.dataclass(frozen=True)
class ClipBound:
    """How each example's gradient is bounded.

    Args:
        l2_norm_clip: A number C bounds the norm over all trainable variables together. A mapping
            of layer names to numbers, or a sequence with one number for each layer that owns
            trainable weights, bounds the norm over each layer's variables by themselves.
        automatic_gamma: If given, gradients are scaled to ``C g / (|g| + automatic_gamma)``
            instead of cut where they are longer than C ("automatic" clipping, Bu et al. 2022,
            arXiv:2206.07136); positive. Defaults to ``None``.

    Raises:
        ValueError: For a bound or ``automatic_gamma`` that is not positive.

    Formal guarantee: one example more or less moves the sum of bounded gradients by at most
    ``sensitivity`` in the L2 norm over all variables.

    Example:
        >>> ClipBound({"hidden": 0.3, "logits": 0.4}).sensitivity
        0.5

    References:
        - Abadi et al. 2016, "Deep Learning with Differential Privacy", arXiv:1607.00133, section
          3.1.
        - Bu et al. 2022, "Automatic Clipping", arXiv:2206.07136.
    """

    l2_norm_clip: float | Mapping[str, float] | Sequence[float]
    automatic_gamma: float | None = None

    def __post_init__(self):
        bound = self.l2_norm_clip
        if isinstance(bound, Mapping):
            bound = {
                _validate.text("l2_norm_clip", name): _validate.positive("l2_norm_clip", value)
                for name, value in bound.items()
            }
        elif isinstance(bound, (list, tuple)):
            bound = [_validate.positive("l2_norm_clip", value) for value in bound]
        else:
            bound = _validate.positive("l2_norm_clip", bound, allow_infinity=True)
        if isinstance(bound, (dict, list)) and not bound:
            raise ValueError(
                f"`l2_norm_clip` needs a number for each layer. Received: l2_norm_clip={bound}"
            )
        object.__setattr__(self, "l2_norm_clip", bound)
        if self.automatic_gamma is not None:
            gamma = _validate.positive("automatic_gamma", self.automatic_gamma)
            object.__setattr__(self, "automatic_gamma", gamma)
            if bound == math.inf:
                raise ValueError(
                    "Automatic clipping needs a finite bound. Received: l2_norm_clip=inf"
                )

    @property
    def sensitivity(self) -> float:
        """Bound on one example's contribution: C, or the root of the summed squares of layers."""
        if isinstance(self.l2_norm_clip, dict):
            return math.hypot(*self.l2_norm_clip.values())
        if isinstance(self.l2_norm_clip, list):
            return math.hypot(*self.l2_norm_clip)
        return self.l2_norm_clip

    def resolve(self, model: keras.Model) -> Clipper:
        """The bound for the trainable variables of a built model.

        Raises:
            ValueError: If the layers of a per-layer bound are not those of the model.
        """
        variables = model.trainable_variables
        bound = self.l2_norm_clip
        if not isinstance(bound, (dict, list)):
            return Clipper(((tuple(range(len(variables))), bound),), self.automatic_gamma)
        layers: dict[str, list[int]] = {}
        for index, variable in enumerate(variables):
            layers.setdefault(variable.path.rsplit("/", 1)[0], []).append(index)
        if isinstance(bound, list):
            if len(bound) != len(layers):
                raise ValueError(
                    f"`l2_norm_clip` needs a number for each of the {len(layers)} layers with "
                    f"trainable weights: {list(layers)}. Received: l2_norm_clip={bound}"
                )
            bounds = dict(zip(layers, bound, strict=True))
        else:
            bounds = {path: bound.get(path, bound.get(_name(path))) for path in layers}
            names = {*layers, *map(_name, layers)}
            if None in bounds.values() or not names.issuperset(bound) or len(bound) != len(layers):
                raise ValueError(
                    "`l2_norm_clip` needs one number for each layer with trainable weights: "
                    f"{list(layers)}. Received: l2_norm_clip={bound}"
                )
        groups = tuple((tuple(indices), bounds[path]) for path, indices in layers.items())
        return Clipper(groups, self.automatic_gamma)


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


@dataclasses.dataclass(frozen=True)
class Clipper:
    """A clip bound for the variables of one model.

    Attributes:
        groups: Indices of variables that are bounded together, with their bound.
        automatic_gamma: See `ClipBound`.

    Example:
        >>> import tensorflow as tf
        >>> clipper = Clipper(groups=(((0, 1), 5.0), ((2,), 1.0)))
        >>> squared_norms = [tf.constant([36.0]), tf.constant([64.0]), tf.constant([0.25])]
        >>> [float(factor[0]) for factor in clipper.factors(squared_norms)]  # 5 / sqrt(36 + 64), 1
        [0.5, 0.5, 1.0]
    """

    groups: tuple[tuple[tuple[int, ...], float], ...]
    automatic_gamma: float | None = None

    def factors(self, squared_norms: Sequence[tf.Tensor | None]) -> list[tf.Tensor | None]:
        """Clip factors for each variable.

        Args:
            squared_norms: For each variable, squared norms ``(batch,)``; ``None`` for a variable
                that the loss does not depend on.

        Returns:
            For each variable factors ``(batch,)``; ``None`` where there was ``None``.
        """
        factors: list[tf.Tensor | None] = [None] * len(squared_norms)
        for indices, bound in self.groups:
            present = [i for i in indices if squared_norms[i] is not None]
            if present:
                norms = joint_norm([squared_norms[i] for i in present])
                for i in present:
                    factors[i] = clip_factors(norms, bound, self.automatic_gamma)
        return factors


def joint_norm(squared_norms: Sequence[tf.Tensor]) -> tf.Tensor:
    """Norms ``(batch,)`` over several variables, in the widest of their dtypes."""
    wide = any(squared.dtype == tf.float64 for squared in squared_norms)
    dtype = tf.float64 if wide else squared_norms[0].dtype
    return tf.sqrt(tf.add_n([tf.cast(squared, dtype) for squared in squared_norms]))


def clip_factors(
    norms: tf.Tensor, l2_norm_clip: float, automatic_gamma: float | None = None
) -> tf.Tensor:
    """What each example's gradient is multiplied with.

    | norm | factor | automatic |
    | --- | --- | --- |
    | 0 | 1 | C / gamma |
    | at most C | 1 | C / (norm + gamma) |
    | above C | C / norm | C / (norm + gamma) |
    | infinite or not a number | 0 | 0 |

    Args:
        norms: Shape ``(batch,)``.
        l2_norm_clip: The bound C, positive; infinity switches clipping off.
        automatic_gamma: See `ClipBound`. Defaults to ``None``.

    Returns:
        Factors ``(batch,)``.

    Formal guarantee: the norm times the factor is at most C, up to rounding.

    Example:
        >>> import tensorflow as tf
        >>> clip_factors(tf.constant([0.0, 1.0, 4.0, float("inf")]), l2_norm_clip=2.0).numpy()
        array([1. , 1. , 0.5, 0. ], dtype=float32)
    """
    finite = tf.math.is_finite(norms)
    if l2_norm_clip == math.inf:
        return tf.cast(finite, norms.dtype)
    bound = tf.cast(l2_norm_clip, norms.dtype)
    if automatic_gamma is None:
        factors = bound / tf.maximum(norms, bound)
    else:
        factors = bound / (norms + tf.cast(automatic_gamma, norms.dtype))
    return tf.where(finite, factors, tf.zeros_like(norms))
