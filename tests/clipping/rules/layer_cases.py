"""One layer's clipped gradients against one example at a time, for layers drawn by hypothesis."""

import functools

import keras
import numpy as np
import one_example_at_a_time as reference
import tensorflow as tf
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from tfdp import clipping

CLIP = 0.5

few = functools.partial(
    settings,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # The layers are small: shrinking them would only take time.
    suppress_health_check=list(HealthCheck),
)


def loss(y_true, y_pred, sample_weight=None):
    """A loss of which every output's gradient is different."""
    del sample_weight
    return tf.reduce_sum(tf.sin(y_pred) * y_true, axis=list(range(1, y_pred.shape.rank)))


def engine_for(model, loop=True):
    clipper = clipping.ClipBound(CLIP).resolve(model)
    context = clipping.Context(loop=loop)
    return clipping.RecordingEngine(model, clipper, clipping.make_plan(model), context)


class CompiledModel:
    """For the reference, a model of layers that run on a CPU only when XLA compiles them."""

    def __init__(self, model):
        self._call = tf.function(model, jit_compile=True)
        self.trainable_variables = model.trainable_variables

    def __call__(self, x, training):
        return self._call(tf.convert_to_tensor(x), training=training)


def check(layer, shape, *, batch=2, loop=True, seed=0, lora_rank=None, compiled=False):
    """Holds one layer's rule against the reference. Returns its methods, variable by variable."""
    rng = np.random.default_rng(seed)
    model = keras.Sequential([keras.Input(shape), layer])
    if lora_rank:
        layer.enable_lora(lora_rank, lora_alpha=2.5 * lora_rank)
    for variable in model.trainable_variables:  # Zeros would hide terms.
        fan_in = np.prod(variable.shape[:-1])
        variable.assign(rng.normal(size=variable.shape) / np.sqrt(fan_in))
    x = rng.normal(size=(batch, *shape)).astype("float32")
    y = rng.normal(size=(batch, *model.output_shape[1:])).astype("float32")
    per_example = reference.gradients(CompiledModel(model) if compiled else model, loss, x, y)

    engine = engine_for(model, loop)
    inputs = (tf.constant(x), tf.constant(y), None, loss)
    groups = tf.range(batch)

    def run():
        clipped = engine(*inputs)
        return clipped.sums, clipped.norms, engine.sum_groups(*inputs, groups, batch).sums

    if compiled:
        run = tf.function(run, jit_compile=True, autograph=False)
    sums, norms, by_example = run()
    np.testing.assert_allclose(norms, reference.norms(per_example), rtol=1e-5)
    # Examples may cancel each other: what is exact is then the sum relative to its terms.
    terms = np.minimum(norms, CLIP)
    reference.assert_close([*sums, terms], [*reference.clipped_sum(per_example, CLIP), terms])
    reference.assert_close(by_example, per_example)
    return methods(engine)


def methods(engine):
    return [report.method for report in engine.reports]


@st.composite
def windows(draw, rank, *, equal_strides=False, dilated=True):
    """Arguments of a window and the lengths of the axes that it moves over."""
    per_axis = st.lists(st.integers(1, 3), min_size=rank, max_size=rank)
    size = draw(per_axis)
    strides = dilation = [1] * rank
    if dilated and draw(st.booleans()):
        dilation = draw(per_axis)
    elif equal_strides:
        strides = [draw(st.integers(1, 3))] * rank
    else:
        strides = draw(per_axis)
    lengths = tuple(
        draw(st.integers(max(4 - rank, (k - 1) * r + 1), (k - 1) * r + 5 - rank))
        for k, r in zip(size, dilation, strict=True)
    )
    return {
        "kernel_size": tuple(size),
        "strides": tuple(strides),
        "dilation_rate": tuple(dilation),
        "padding": draw(st.sampled_from(["same", "valid"])),
    }, lengths


layer_arguments = st.fixed_dictionaries(
    # No saturating activation: one minus the square of almost one is known to few digits only.
    {"use_bias": st.booleans(), "activation": st.sampled_from([None, "softplus"])}
)
run_arguments = st.fixed_dictionaries(
    {"batch": st.integers(1, 3), "loop": st.booleans(), "seed": st.integers(0, 99)}
)
sizes = st.integers(1, 4)
