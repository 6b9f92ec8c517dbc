"""From a batch to the sum of clipped per-example gradients. No noise, no optimizer in here."""

from tfdp.clipping import rules
from tfdp.clipping.bounds import ClipBound, Clipper, clip_factors
from tfdp.clipping.compiled import CompiledEngine
from tfdp.clipping.engine import (
    ClippedGradients,
    Engine,
    LayerReport,
    RecordingEngine,
    clip_group_means,
)
from tfdp.clipping.per_example import Instantiated, OuterProduct, PerExampleGradient
from tfdp.clipping.per_example_loss import PerExampleLoss
from tfdp.clipping.plan import Plan, make_plan
from tfdp.clipping.registry import Call, Context, Rule, register_rule
from tfdp.clipping.summary import summary_table
from tfdp.clipping.vectorized import VectorizedEngine

__all__ = [
    "Call",
    "ClipBound",
    "ClippedGradients",
    "Clipper",
    "CompiledEngine",
    "Context",
    "Engine",
    "Instantiated",
    "LayerReport",
    "OuterProduct",
    "PerExampleGradient",
    "PerExampleLoss",
    "Plan",
    "RecordingEngine",
    "Rule",
    "VectorizedEngine",
    "clip_factors",
    "clip_group_means",
    "make_plan",
    "register_rule",
    "rules",
    "summary_table",
]
