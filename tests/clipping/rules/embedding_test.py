"""Embeddings against one example at a time."""

import keras
import numpy as np
import one_example_at_a_time as reference
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdp import clipping
from tfdp.clipping.registry import find_rule
from tfdp.clipping.rules import embedding

L = keras.layers
needs_reversible = pytest.mark.skipif(
    not hasattr(L, "ReversibleEmbedding"), reason="this Keras has none"
)


def linear_loss(direction, output, weight=None):
    """Its gradient with respect to the output is ``direction``, whatever the output."""
    del weight
    product = tf.cast(direction, output.dtype) * output
    return tf.reduce_sum(product, list(range(1, product.shape.rank)))


def engine_for(model, clip=1.0):
    clipper = clipping.ClipBound(clip).resolve(model)
    return clipping.RecordingEngine(model, clipper, clipping.make_plan(model), clipping.Context())


def model_of(layer, shape, dtype="int32"):
    inputs = keras.Input(shape, dtype=dtype)
    return keras.Model(inputs, layer(inputs))


def check(model, ids, tolerance=1e-5, seed=0):
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=model(ids).shape).astype("float32")
    per_example = reference.gradients(model, linear_loss, ids, direction)
    clip = float(np.median(reference.norms(per_example)))
    engine = engine_for(model, clip)
    result = engine(ids, direction, None, linear_loss)
    np.testing.assert_allclose(result.norms, reference.norms(per_example), rtol=tolerance)
    reference.assert_close(result.sums, reference.clipped_sum(per_example, clip), tolerance)
    return engine


@st.composite
def id_batches(draw):
    """A vocabulary size, and ids of any rank with few or many repetitions."""
    vocabulary = draw(st.integers(1, 12))
    shape = [draw(st.integers(1, 4)), *draw(st.lists(st.integers(1, 6), max_size=2))]
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    distinct = draw(st.integers(1, vocabulary))
    dtype = draw(st.sampled_from(["int32", "int64", "float32", "uint8"]))
    return vocabulary, rng.choice(vocabulary, distinct)[rng.integers(0, distinct, shape)], dtype


@settings(max_examples=25, deadline=None)
@given(id_batches(), st.integers(1, 5), st.booleans())
def test_embedding(batch, features, mask_zero):
    vocabulary, ids, dtype = batch
    layer = L.Embedding(vocabulary, features, mask_zero=mask_zero)
    check(model_of(layer, ids.shape[1:], dtype), ids.astype(dtype))


def test_equal_ids_add_up_within_an_example_and_not_between_examples():
    ids = np.array([[3, 3, 3, 3], [3, 1, 3, 1], [0, 1, 2, 3]], "int32")
    engine = check(model_of(L.Embedding(5, 2), (4,)), ids)
    assert engine.reports[0].method == "sort ids"
    check(model_of(L.Embedding(5, 2), (4,)), ids[:1])
    assert check(model_of(L.Embedding(5, 2), ()), ids[:, 0]).reports[0].method == "closed form"


def test_negative_ids_count_from_the_end_as_in_keras():
    check(model_of(L.Embedding(4, 3), (4,)), np.array([[-1, 3, 3, 0], [-4, 0, 1, -1]], "int32"))


def test_numbers_of_equal_ids():
    ids = tf.constant([[7, 2, 7, 5, 2], [1, 1, 1, 1, 1], [9, 8, 7, 6, 5]])
    numbers = embedding.number_equal_ids(ids)
    assert numbers.numpy().tolist() == [[2, 0, 2, 1, 0], [0] * 5, [4, 3, 2, 1, 0]]


def randomize_factors(layer, rng):
    for factor in (layer.lora_embeddings_a, layer.lora_embeddings_b):
        factor.assign(rng.normal(size=factor.shape))


@settings(max_examples=15, deadline=None)
@given(id_batches(), st.integers(1, 4), st.integers(1, 3), st.sampled_from([None, 5]))
def test_lora(batch, features, rank, alpha):
    vocabulary, ids, dtype = batch
    layer = L.Embedding(vocabulary, features)
    model = model_of(layer, ids.shape[1:], dtype)
    layer.enable_lora(rank, **({} if alpha is None else {"lora_alpha": alpha}))
    randomize_factors(layer, np.random.default_rng(0))
    engine = check(model, ids.astype(dtype))
    variables = {report.variable.split("/")[-1] for report in engine.reports}
    assert variables == {"lora_embeddings_a", "lora_embeddings_b"}


def test_lora_beside_trainable_embeddings():
    layer = L.Embedding(6, 3)
    model = model_of(layer, (4,))
    layer.enable_lora(2)
    layer._embeddings.trainable = True
    randomize_factors(layer, np.random.default_rng(1))
    assert len(model.trainable_variables) == 3
    check(model, np.array([[0, 5, 5, 1], [2, 2, 2, 2]], "int32"))


@pytest.mark.parametrize("lora", [False, True])
def test_mixed_precision(lora):
    layer = L.Embedding(6, 3, dtype="mixed_bfloat16")
    model = model_of(layer, (5,))
    if lora:
        layer.enable_lora(2)
        randomize_factors(layer, np.random.default_rng(2))
    check(model, np.random.default_rng(3).integers(0, 6, (4, 5)), tolerance=2e-2)


def test_an_embedding_that_is_used_twice():
    inputs = keras.Input((4,), dtype="int32")
    shared = L.Embedding(6, 3)
    model = keras.Model(inputs, shared(inputs) + shared(5 - inputs))
    engine = check(model, np.random.default_rng(4).integers(0, 6, (3, 4)).astype("int32"))
    assert len(engine.reports) == 2


def test_frozen_and_non_finite():
    inputs = keras.Input((4,), dtype="int32")
    frozen = L.Embedding(6, 3, trainable=False)
    model = keras.Model(inputs, frozen(inputs) + L.Embedding(6, 3)(inputs))
    ids = np.array([[5, 5, 5, 5], [0, 1, 1, 2], [3, 3, 0, 5]], "int32")
    engine = check(model, ids)
    assert len(engine.reports) == 1
    direction = np.random.default_rng(5).normal(size=(3, 4, 3)).astype("float32")
    clean = engine(ids[1:], direction[1:], None, linear_loss).sums
    direction[0, 1] = np.nan
    result = engine(ids, direction, None, linear_loss)
    assert result.finite.numpy().tolist() == [False, True, True]
    reference.assert_close(result.sums, [total.numpy() for total in clean])


@needs_reversible
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("soft_cap", [None, 2.0])
@pytest.mark.parametrize("lora", [False, True])
def test_reversible_embedding(tied, soft_cap, lora):
    layer = L.ReversibleEmbedding(7, 4, tie_weights=tied, logit_soft_cap=soft_cap)
    inputs = keras.Input((5,), dtype="int32")
    logits = layer(keras.ops.tanh(layer(inputs)), reverse=True)
    model = keras.Model(inputs, logits)
    rng = np.random.default_rng(6)
    if lora:
        layer.enable_lora(2)
        randomize_factors(layer, rng)
    layer._embeddings.assign(rng.normal(size=(7, 4)))
    check(model, rng.integers(0, 7, (3, 5)).astype("int32"))


def test_sparse_ids_are_refused():
    layer = L.Embedding(6, 3)
    ids = tf.sparse.from_dense([[1, 0, 2]])
    call = clipping.Call(layer, (ids,), {}, None)
    with pytest.raises(ValueError, match="sparse or ragged.*SparseTensor"):
        list(find_rule(layer).gradients(call, tf.ones((1, 3, 3)), clipping.Context()))


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_compiled_by_xla(dtype):
    rng = np.random.default_rng(7)
    inputs = keras.Input((6,), dtype=dtype)
    adapted, shared = L.Embedding(9, 3), L.Embedding(9, 3)
    model = keras.Model(inputs, adapted(inputs) + shared(inputs) + shared(8 - inputs))
    adapted.enable_lora(2)
    randomize_factors(adapted, rng)
    engine = engine_for(model, 2.0)

    @tf.function(jit_compile=True, autograph=False)
    def step(ids, direction):
        result = engine(ids, direction, None, linear_loss)
        return result.sums, result.norms

    ids = rng.integers(0, 9, (4, 6)).astype(dtype)
    direction = rng.normal(size=(4, 6, 3)).astype("float32")
    per_example = reference.gradients(model, linear_loss, ids, direction)
    sums, norms = step(tf.constant(ids), tf.constant(direction))
    np.testing.assert_allclose(norms, reference.norms(per_example), rtol=1e-5)
    reference.assert_close(sums, reference.clipped_sum(per_example, 2.0))


def tensor_sizes(graph, unknown):
    """Sizes of all tensors in a graph and the functions it calls."""
    pending, seen = [graph], set()
    while pending:
        graph = pending.pop()
        for op in graph.get_operations():
            for tensor in op.outputs:
                if tensor.shape.rank is not None:
                    yield op.name, np.prod([size or unknown for size in tensor.shape.as_list()])
        for name, function in graph._functions.items():
            if name not in seen:
                seen.add(name)
                pending.append(function.graph)


@pytest.mark.parametrize("lora", [False, True])
def test_no_tensor_holds_the_table_for_each_example_or_token(lora):
    length, positions, vocabulary, features = 5, 6, 1009, 3
    layer = L.Embedding(vocabulary, features)
    model = model_of(layer, (positions,))
    if lora:
        layer.enable_lora(2)
    engine = engine_for(model)

    @tf.function(autograph=False)
    def step(ids, direction):
        result = engine(ids, direction, None, linear_loss)
        return result.sums, result.norms

    concrete = step.get_concrete_function(
        tf.TensorSpec((length, positions), tf.int32),
        tf.TensorSpec((length, positions, features)),
    )
    sizes = list(tensor_sizes(concrete.graph, unknown=length * positions))
    assert len(sizes) > 20
    # The table itself is the largest: no example and no token has one of its own.
    name, largest = max(sizes, key=lambda item: item[1])
    assert largest <= vocabulary * features < length * vocabulary, name
    assert vocabulary * features < positions * vocabulary
