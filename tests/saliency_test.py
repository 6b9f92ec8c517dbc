"""DP selection of weight matrices: scores, sensitivity, noise, events, and what is left alone."""

import math
import warnings

import dp_accounting
import hypothesis
import keras
import numpy as np
import one_example_at_a_time
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from scipy import stats

import tfdp
from tfdp import accounting, saliency

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(13, 4)).astype("float32")
Y = RANDOM.integers(0, 3, 13)
SETTING = {"candidates": "all_matrices", "score_noise_multiplier": 0.0}


def perceptron():
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, activation="tanh", name="first"),
            keras.layers.Dense(5, activation="tanh", name="second"),
            keras.layers.Dense(3, name="logits"),
        ]
    )


def small_vit():
    return tfdp.models.vit_small(
        input_shape=(8, 8, 3), num_classes=3, patch_size=4, dim=8, depth=2, heads=2
    )


IMAGES = RANDOM.uniform(size=(6, 8, 8, 3)).astype("float32")
LABELS = np.arange(6) % 3


def scores(model, x, y, **setting):
    result = saliency.select(model, LOSS, (x, y), **{**SETTING, **setting})
    return np.array(list(result.scores.values()))


def scores_one_at_a_time(model, x, y, clip, variables):
    every = one_example_at_a_time.gradients(model, LOSS, x, y)
    ids = [id(v) for v in model.trainable_variables]
    gradients = [every[ids.index(id(v))] for v in variables]
    factors = np.minimum(1, clip / one_example_at_a_time.norms(gradients))
    parts = [(g.reshape(len(g), -1) ** 2).sum(1) * factors**2 for g in gradients]
    return np.array([part.sum() for part in parts])


@pytest.mark.parametrize("clip", [0.05, 0.8, 100.0])
def test_scores_without_noise_are_those_of_one_example_at_a_time(clip):
    model = perceptron()
    expected = scores_one_at_a_time(model, X, Y, clip, [layer.kernel for layer in model.layers])
    for size in (None, 1, 5):
        actual = scores(model, X, Y, l2_norm_clip=clip, physical_batch_size=size)
        np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_attention_candidates_of_a_transformer():
    model = small_vit()
    names = [f"{a}/{p}" for a in attentions(model) for p in PARTS]
    variables = [find(model, f"{name}/kernel") for name in names]
    expected = scores_one_at_a_time(model, IMAGES, LABELS, 0.1, variables)
    selection = saliency.select(
        model, LOSS, (IMAGES, LABELS), l2_norm_clip=0.1, score_noise_multiplier=0.0
    )
    assert list(selection.candidates) == names
    assert list(selection.scores) == names
    np.testing.assert_allclose(list(selection.scores.values()), expected, rtol=1e-4)
    best = np.argsort(-expected)[:2]  # 0.3 of 8
    assert selection.layers == tuple(names[k] for k in best)
    assert selection.names == tuple(f"{names[k]}/kernel" for k in best)


PARTS = ("query", "key", "value", "attention_output")


def attentions(model):
    return [la.name for la in model.layers if isinstance(la, keras.layers.MultiHeadAttention)]


def find(model, path):
    return next(v for v in model.variables if v.path == path)


class OwnAttention(keras.layers.Layer):
    """Names its projections as keras-cv's Stable Diffusion does, with a list at the end."""

    def __init__(self):
        super().__init__()
        self.to_q, self.to_k, self.to_v = (keras.layers.Dense(4, name=n) for n in "qkv")
        self.to_out = [keras.layers.Dense(4, name="out"), keras.layers.Dropout(0.1)]

    def build(self, shape):
        for layer in (self.to_q, self.to_k, self.to_v, self.to_out[0]):
            layer.build(shape)

    def call(self, x, training=None):
        weights = keras.ops.softmax(
            keras.ops.einsum("btd,bsd->bts", self.to_q(x), self.to_k(x)), axis=-1
        )
        x = keras.ops.matmul(weights, self.to_v(x))
        for layer in self.to_out:
            x = layer(x)
        return x


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.attention, self.logits = OwnAttention(), keras.layers.Dense(3)
        self.grouped = keras.layers.GroupQueryAttention(4, 2, 1)

    def call(self, x, training=None):
        x = self.attention(x, training=training)
        return self.logits(keras.ops.mean(self.grouped(x, x), axis=1))


def test_candidates_of_other_attention_layers_in_a_subclassed_model():
    model = Subclassed()
    x = RANDOM.normal(size=(5, 3, 4)).astype("float32")
    model(x)
    selection = saliency.select(model, LOSS, (x, Y[:5]), score_noise_multiplier=1.0)
    ends = [path.rsplit("/", 1)[1] for path in selection.candidates]
    assert sorted(ends) == sorted(["q", "k", "v", "out", *PARTS])


def test_candidates_by_name_by_function_and_none():
    model = perceptron()
    for candidates in (["logits", "first"], lambda layer: layer.name != "second"):
        selection = saliency.select(model, LOSS, (X, Y), **{**SETTING, "candidates": candidates})
        assert selection.candidates == ("first", "logits")
    with pytest.raises(ValueError, match="`candidates` must find a weight matrix.*'attention'"):
        saliency.select(model, LOSS, (X, Y), score_noise_multiplier=1.0)


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    st.lists(
        st.lists(st.floats(0, float(np.float32(1e30)), width=32), min_size=4, max_size=4),
        min_size=1,
        max_size=6,
    ),
    st.floats(1e-3, 1e3),
    st.data(),
)
def test_sensitivity_of_the_sums_for_any_gradients(rows, clip, data):
    finite = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))))
    squared = np.array(rows, "float32").T
    shares = saliency.clipped_shares(list(map(tf.constant, squared)), tf.constant(finite), clip)
    shares = shares.numpy()
    bound = clip**2 * (1 + 1e-14)
    assert shares.min() >= 0
    assert (shares.sum(1) <= bound).all()  # L1, and L2 is no more
    assert (np.linalg.norm(shares, axis=1) <= bound).all()
    assert (shares[~finite] == 0).all()


@hypothesis.settings(max_examples=6)
@hypothesis.given(st.integers(0, 12), st.sampled_from([1.0, 1e3, 1e8]), st.sampled_from([0.1, 3.0]))
def test_removing_an_example_moves_the_scores_by_at_most_the_square_of_the_clip(i, scale, clip):
    x = X.copy()
    x[i] *= scale
    model = perceptron()
    whole = scores(model, x, Y, l2_norm_clip=clip)
    less = scores(model, np.delete(x, i, 0), np.delete(Y, i), l2_norm_clip=clip)
    moved = whole - less
    rounding = 1e-5 * clip**2  # of gradients, which batches of other lengths round differently
    assert moved.min() >= -rounding
    assert np.abs(moved).sum() <= clip**2 + rounding
    assert np.linalg.norm(moved) <= clip**2 + rounding


def test_a_clipped_example_moves_the_scores_by_the_square_of_the_clip():
    moved = scores(perceptron(), X, Y, l2_norm_clip=1e-3) - scores(
        perceptron(), X[1:], Y[1:], l2_norm_clip=1e-3
    )
    assert np.abs(moved).sum() == pytest.approx(1e-6, rel=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_example_that_is_not_finite_counts_as_zero(bad):
    x = X.copy()
    x[2] = bad
    model = perceptron()
    with pytest.warns(UserWarning, match="1 examples had a loss or gradient that was not finite"):
        actual = scores(model, x, Y)
    np.testing.assert_allclose(actual, scores(model, np.delete(x, 2, 0), np.delete(Y, 2)), 1e-5)


def many_matrices(count):
    inputs = keras.Input((2,))
    outputs = [keras.layers.Dense(1)(inputs) for _ in range(count)]
    return keras.Model(inputs, keras.layers.Concatenate()(outputs))


def test_the_noise_has_the_scale_that_is_charged(monkeypatch):
    count, clip, sigma = 50, 0.5, 3.0
    model = many_matrices(count)
    exact = np.arange(count) * 0.1
    monkeypatch.setattr(saliency, "_scores", lambda *_: tf.constant(exact))
    noise = []
    for _ in range(40):
        selection = saliency.select(
            model,
            "mse",
            (X[:, :2], np.ones((13, count))),
            candidates="all_matrices",
            l2_norm_clip=clip,
            score_noise_multiplier=sigma,
        )
        assert selection.event == dp_accounting.GaussianDpEvent(sigma)
        noise.extend(np.array(list(selection.scores.values())) - exact)
    scale = sigma * clip**2
    assert stats.kstest(noise, "norm", args=(0, scale)).pvalue > 1e-4
    for wrong in (2 / 3, 3 / 2):
        assert stats.kstest(noise, "norm", args=(0, wrong * scale)).pvalue < 1e-6


def test_a_poisson_sample_is_what_is_scored():
    x, y = np.repeat(X[:1], 2000, 0), np.repeat(Y[:1], 2000)  # All score alike: the sum counts.
    model = perceptron()
    clip = 1e-2
    counts = [scores(model, x, y, l2_norm_clip=clip, sampling_probability=0.1).sum() / clip**2]
    for seed in (1, 2, 3, 1):
        setting = {"sampling_probability": 0.1, "seed": seed, "l2_norm_clip": clip}
        counts.append(scores(model, x, y, **setting).sum() / clip**2)
    sizes = np.round(counts)
    np.testing.assert_allclose(counts, sizes, atol=1e-2)
    assert (np.abs(sizes - 200) < 6 * math.sqrt(180)).all()
    assert sizes[1] == sizes[4]
    assert len(set(sizes)) > 1


def test_an_empty_sample_is_noise_alone():
    selection = saliency.select(
        perceptron(),
        LOSS,
        (X, Y),
        candidates="all_matrices",
        score_noise_multiplier=2.0,
        sampling_probability=1e-12,
    )
    assert len(selection.layers) == 1
    assert 0 < np.abs(list(selection.scores.values())).min() < 20
    assert not scores(perceptron(), X, Y, sampling_probability=1e-12).any()


def test_the_exponential_mechanism_chooses_as_its_proof_says():
    model = perceptron()
    clip, sigma, runs = 1.0, 5.0, 200
    exact = scores(model, X, Y, l2_norm_clip=clip)
    first = []
    key = tf.random.stateless_uniform([runs, 2], [3, 4], None, None, tf.int64)
    for k in range(runs):
        noisy = exact + sigma * clip**2 * saliency._gumbel(3, key[k]).numpy()
        first.append(int(np.argmax(noisy)))
    expected = np.exp(exact / (sigma * clip**2))
    counts = np.bincount(first, minlength=3)
    assert stats.chisquare(counts, runs * expected / expected.sum()).pvalue > 1e-4
    assert stats.chisquare(counts, runs * expected**3 / (expected**3).sum()).pvalue < 1e-4
    setting = {**SETTING, "score_noise_multiplier": sigma, "mechanism": "exponential"}
    selection = saliency.select(model, LOSS, (X, Y), fraction=0.67, **setting)
    assert len(selection.layers) == 2
    assert selection.scores is None
    assert selection.event == dp_accounting.dp_event.ZCDpEvent(rho=2 / (8 * sigma**2))
    ledger = accounting.PrivacyLedger()
    selection.charge(ledger)
    assert ledger.epsilon(1e-5) <= accounting.zcdp_epsilon(0.01, 1e-5)
    setting["score_noise_multiplier"] = 0.0
    selection = saliency.select(model, LOSS, (X, Y), fraction=1.0, **setting)
    assert [*selection.candidates] == ["first", "second", "logits"]
    order = [selection.candidates.index(path) for path in selection.layers]
    assert order == list(np.argsort(-exact))
    selection.charge(ledger)
    assert ledger.epsilon(1e-5) == math.inf


def test_a_choice_of_the_exponential_mechanism_costs_no_more_than_charged():
    sigma, scores_without = 1.5, np.array([3.0, 1.0, 0.0, 2.0])
    for moved in ([1, 0, 0, 0], [0, 0, 0, 1], [0.5, 0.5, 0, 0], [0, 0, 1, 0]):
        p, q = (
            np.exp(u / sigma) / np.exp(u / sigma).sum()
            for u in (scores_without, scores_without + np.array(moved))
        )
        for order in (1.5, 2.0, 8.0, 64.0):
            for a, b in ((p, q), (q, p)):
                divergence = np.log((a**order * b ** (1 - order)).sum()) / (order - 1)
                assert divergence <= order / (8 * sigma**2)


def test_baselines_read_no_data_and_cost_nothing():
    model = perceptron()
    everything = saliency.select(model, None, None, candidates="all_matrices", mechanism="all")
    assert everything.layers == everything.candidates == ("first", "second", "logits")
    draws = {
        saliency.select(
            model, None, None, candidates="all_matrices", mechanism="random", seed=seed
        ).layers
        for seed in range(20)
    }
    assert len(draws) == 3
    assert all(len(layers) == 1 for layers in draws)
    ledger = accounting.PrivacyLedger()
    everything.charge(ledger)
    assert ledger.epsilon(1e-5) == 0
    assert not ledger.releases
    with pytest.raises(ValueError, match="scores to draw.*mechanism='all'"):
        everything.figure()


@pytest.mark.parametrize(
    "fraction, candidates, kept", [(0.3, 10, 3), (0.29, 100, 29), (0.05, 3, 1), (1.0, 7, 7)]
)
def test_how_many_are_kept(fraction, candidates, kept):
    model = many_matrices(candidates)
    selection = saliency.select(
        model, None, None, fraction=fraction, candidates="all_matrices", mechanism="random"
    )
    assert len(set(selection.layers)) == kept


def test_equal_scores_are_kept_in_order():
    model = many_matrices(5)
    data = (np.zeros((3, 2), "float32"), np.zeros((3, 5)))
    selection = saliency.select(model, "mse", data, fraction=0.4, **SETTING)
    assert set(selection.scores.values()) == {0.0}
    assert selection.layers == selection.candidates[:2]


def flags(model):
    layers = [layer.trainable for layer in model._flatten_layers()]
    return layers, [variable.trainable for variable in model.variables]


def test_trainable_flags_and_weights_are_as_before_also_after_an_error():
    model = small_vit()
    model.trainable = False
    model.get_layer("logits").trainable = True
    before, weights = flags(model), model.get_weights()
    selection = saliency.select(model, LOSS, (IMAGES, LABELS), score_noise_multiplier=0.0)
    assert flags(model) == before
    assert min(selection.scores.values()) > 0  # Frozen candidates were scored.

    def broken(y, y_pred):
        assert not model.get_layer("logits").trainable_variables
        assert model.get_layer(attentions(model)[0]).trainable_variables
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        saliency.select(model, broken, (IMAGES, LABELS), score_noise_multiplier=1.0)
    assert flags(model) == before
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_nested_inputs_without_targets_and_dropout():
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    joint = keras.layers.Concatenate()([keras.layers.Dense(3, name="left")(a), b])
    outputs = keras.layers.Dense(2, name="right")(keras.layers.Dropout(0.5)(joint))
    model = keras.Model({"a": a, "b": b}, outputs)
    selection = saliency.select(
        model,
        lambda y, y_pred: keras.ops.mean(keras.ops.square(y_pred), axis=-1),
        ({"a": X, "b": X}, None),
        **SETTING,
    )
    assert set(selection.candidates) == {"left", "right"}
    assert min(selection.scores.values()) > 0


def test_the_selection_is_charged_with_the_training():
    selection = saliency.select(
        perceptron(),
        LOSS,
        (X, Y),
        candidates="all_matrices",
        score_noise_multiplier=6.0,
        sampling_probability=0.5,
    )
    model = perceptron()
    tfdp.lora.enable(model, selection, rank=1)
    private = tfdp.make_private(model)
    delta, q, target = 1e-3, 4 / 13, 2.0
    sigma = accounting.noise_multiplier(target, q, 3, delta, beside=selection.event)
    assert sigma > accounting.noise_multiplier(target, q, 3, delta)
    private.ledger.charge(selection.event)
    assert private.ledger.epsilon(delta) == accounting.epsilon(6.0, 0.5, 1, delta) > 0
    optimizer = tfdp.optimizers.VectorizedDPKerasSGDOptimizer(1.0, sigma, learning_rate=0.1)
    private.compile(optimizer, LOSS)
    private.fit(
        X,
        Y,
        batch_size=4,
        epochs=9,
        verbose=0,
        callbacks=[tfdp.callbacks.PrivacyBudget(target, delta)],
    )
    steps = sum(r.count for r in private.ledger.releases if "training" in r.description)
    assert steps == 3
    assert 0.99 * target < private.ledger.epsilon(delta) <= target
    step = private.ledger.releases[-1].event
    assert private.ledger.remaining_steps(step, target, delta) == 0


def test_charging_says_what_was_released_and_of_a_seed_that_it_is_not_private():
    ledger = accounting.PrivacyLedger()
    setting = {"candidates": "all_matrices", "score_noise_multiplier": 6.0}
    saliency.select(perceptron(), LOSS, (X, Y), **setting).charge(ledger)
    statement = ledger.statement(1e-3)
    assert statement.is_private
    assert statement.releases[0].noise_multiplier == 6.0
    assert "1 of 3, gaussian" in str(statement)
    saliency.select(perceptron(), LOSS, (X, Y), seed=1, **setting).charge(ledger)
    assert ledger.not_private_reasons == ("fixed seed of the selection",)


def test_the_published_setting_at_epsilon_0_2_is_refused():
    """CIFAR-10 in the paper: 45,000 images, all of them scored with a noise multiplier of 5."""
    q, steps, delta = 4096 / 45_000, 1000, 1 / (45_000 * math.log(45_000))
    spent = accounting.dp_sgd_event(5.0, 1.0)
    with pytest.raises(ValueError, match="`beside` must be within target_epsilon=0.2"):
        accounting.noise_multiplier(0.2, q, steps, delta, "pld", beside=spent)
    for target, alone, together in ((10.0, 1.700, 1.708), (1.0, 11.8, 20.3)):
        for beside, sigma in ((None, alone), (spent, together)):
            found = accounting.noise_multiplier(target, q, steps, delta, "pld", beside=beside)
            assert found == pytest.approx(sigma, rel=5e-3)


@pytest.mark.parametrize("mechanism", saliency.MECHANISMS)
def test_a_selection_is_written_read_and_drawn(mechanism, tmp_path):
    setting = {**SETTING, "score_noise_multiplier": 1.0, "mechanism": mechanism}
    selection = saliency.select(perceptron(), LOSS, (X, Y), fraction=0.7, **setting)
    read = saliency.Selection.from_json(selection.to_json())
    assert read == selection
    if mechanism == "gaussian":
        selection.plot(tmp_path / "scores.png")
        assert (tmp_path / "scores.png").stat().st_size > 1000
        bars = {bar.get_y() + bar.get_height() / 2: bar for bar in read.figure().axes[0].patches}
        widths = [bars[place].get_width() for place in range(3)]
        assert widths == list(selection.scores.values())
        coloured = [bars[place].get_facecolor() for place in range(3)]
        assert coloured.count(coloured[selection.candidates.index(selection.layers[0])]) == 2


def test_a_broken_file_is_refused():
    text = saliency.select(
        perceptron(), LOSS, (X, Y), candidates="all_matrices", score_noise_multiplier=1.0
    ).to_json()
    for old, new in (
        ('"version": 1', '"version": 9'),
        ('"GaussianDpEvent"', '"NonPrivateEvent"'),
        ('"fraction": 0.3', '"fraction": 7'),
        ('"mechanism"', '"method"'),
        ('"not_private_reasons": []', '"not_private_reasons": ""'),
    ):
        damaged = text.replace(old, new)
        assert damaged != text
        with pytest.raises(ValueError, match="`text` must be the JSON of a selection"):
            saliency.Selection.from_json(damaged)


def test_progress_is_quiet_unless_asked_for(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores(perceptron(), X, Y)
        assert capsys.readouterr().out == ""
        scores(perceptron(), X, Y, verbose=1, physical_batch_size=5)
    assert "3/3" in capsys.readouterr().out


def test_layers_that_cannot_be_told_apart_or_adapted_are_refused():
    inputs = keras.Input((4,))
    first, second = (keras.layers.Dense(4, name="same") for _ in range(2))
    inner = keras.Model(inputs, first(inputs), name="inner")
    outer = keras.Model(inputs, second(inner(inputs)))
    with pytest.raises(ValueError, match="Two layers of `model` have the path 'same'"):
        saliency.select(outer, LOSS, (X, Y), **SETTING)
    model = perceptron()
    model.get_layer("first").enable_lora(1)
    with pytest.raises(ValueError, match="'first' cannot: it has some already"):
        saliency.select(model, LOSS, (X, Y), **{**SETTING, "candidates": ["first"]})
    selection = saliency.select(model, LOSS, (X, Y), **SETTING)
    assert selection.candidates == ("second", "logits")


def test_batch_normalization_is_refused_unless_frozen():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dense(3)]
    )
    with pytest.raises(ValueError, match="BatchNormalization"):
        saliency.select(model, LOSS, (X, Y), **SETTING)
    model.trainable = False
    together = scores(model, X, Y, l2_norm_clip=100.0)
    apart = [scores(model, X[i : i + 1], Y[i : i + 1], l2_norm_clip=100.0) for i in range(3)]
    np.testing.assert_allclose(scores(model, X[:3], Y[:3], l2_norm_clip=100.0), sum(apart), 1e-5)
    assert together.sum() > sum(apart).sum()
