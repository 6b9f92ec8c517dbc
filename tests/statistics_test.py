"""Private statistics: what they are, how sensitive, how noisy, and what they cost."""

import math

import dp_accounting
import keras
import numpy as np
import pytest
from dp_accounting.rdp import RdpAccountant
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

import tfdp
from tfdp import statistics

RNG = np.random.default_rng(0)
# Strong along two directions of six, and far from zero.
BASIS = np.linalg.qr(RNG.normal(size=(6, 6)))[0]
X = 2.0 + (RNG.normal(size=(3000, 6)) * [5, 3, 1, 0.5, 0.5, 0.5]) @ BASIS.T


def recorded(monkeypatch):
    """Every sum that noise is about to be added to, with the noise's standard deviation."""
    seen = []
    add = tfdp.noise.GaussianNoise.add

    def recording(self, tensors, stddev, replicas=1):
        seen.extend((tensor.numpy(), stddev) for tensor in tensors)
        return add(self, tensors, stddev, replicas)

    monkeypatch.setattr(tfdp.noise.GaussianNoise, "add", recording)
    return seen


def test_without_noise_and_clipping_they_are_the_ordinary_ones():
    found = statistics.measure(
        X.reshape(-1, 3, 2), l2_norm_clip=1e3, noise_multiplier=0.0, num_directions=2
    )
    assert found.mean.shape == (3, 2)
    np.testing.assert_allclose(found.mean.ravel(), X.mean(0), rtol=1e-5)
    covariance = np.cov(X.T, bias=True)
    values, vectors = np.linalg.eigh(covariance)
    np.testing.assert_allclose(found.variances, values[:-3:-1], rtol=1e-3)
    np.testing.assert_allclose(
        np.abs(np.sum(found.directions * vectors[:, :-3:-1], axis=0)), [1, 1], rtol=1e-4
    )


def test_the_layer_evens_the_directions_out():
    found = statistics.measure(X, l2_norm_clip=30.0, noise_multiplier=1.0, num_directions=2)
    scaled = found.layer(name="scaled")(X.astype("float32")).numpy()
    np.testing.assert_allclose(scaled.mean(0), 0, atol=0.1)
    along = np.var(scaled @ found.directions, axis=0)
    np.testing.assert_allclose(along, [9, 9], rtol=0.2)
    others = np.linalg.eigvalsh(np.cov(scaled.T))[:4]
    np.testing.assert_allclose(others, [0.25, 0.25, 0.25, 1], rtol=0.2)


def test_directions_that_noise_could_have_made_stay_as_they_are():
    def found(noise_multiplier):
        return statistics.measure(
            X, l2_norm_clip=20.0, noise_multiplier=noise_multiplier, num_directions=3
        )

    clear, noisy, lost = found(0.01), found(10.0), found(1000.0)
    np.testing.assert_allclose(clear.directions.T @ clear.directions, np.eye(3), atol=1e-5)
    assert noisy.noise_floor == pytest.approx(10 * 400 * math.sqrt(12) / 3000)
    np.testing.assert_allclose(clear.layer().factors, [1 / 5, 1 / 3, 1], rtol=0.1)
    np.testing.assert_allclose(noisy.layer().factors[:2], np.sqrt([4.6 / 25, 4.6 / 9]), rtol=0.4)
    assert noisy.layer().factors[2] == 1
    np.testing.assert_array_equal(lost.layer().factors, [1, 1, 1])


def test_data_that_do_not_vary_are_only_centred():
    flat = statistics.measure(
        np.full((50, 4), 3.0), l2_norm_clip=1e3, noise_multiplier=0.0, num_directions=2
    )
    np.testing.assert_array_equal(flat.factors, [1, 1])
    along_one = np.zeros((50, 4))
    along_one[::2, 0] = 2.0
    line = statistics.measure(along_one, l2_norm_clip=1e3, noise_multiplier=0.0, num_directions=4)
    assert np.isfinite(line.factors).all() and (line.factors > 0).all()
    assert (line.factors[1:] == 1).all()


finite = st.floats(-(2.0**100), 2.0**100, allow_nan=False, width=32)
data = arrays.arrays(
    "float32", arrays.array_shapes(min_dims=2, max_dims=3, max_side=5), elements=finite
)


@given(x=data, row=st.integers(0, 4), clip=st.sampled_from([1e-3, 1.0, 50.0]))
def test_one_example_moves_the_sums_by_the_clip_norms_at_most(x, row, clip):
    with pytest.MonkeyPatch.context() as monkeypatch:
        seen = recorded(monkeypatch)
        without = np.delete(x, row % len(x), axis=0)
        if not len(without):
            without = np.zeros_like(x)
        options = {"l2_norm_clip": clip, "noise_multiplier": 0.0}
        statistics.measure(x, **options)
        statistics.measure(without, **options)
        (total, _), (other, _) = seen
        assert np.linalg.norm(total - other) <= clip * (1 + 1e-9)
        mean = np.zeros(total.shape)
        both = [statistics._second_moments(part, mean, clip) for part in (x, without)]
        assert np.linalg.norm(both[0] - both[1]) <= clip**2 * (1 + 1e-4)


def test_the_bounds_are_reached(monkeypatch):
    seen = recorded(monkeypatch)
    x = np.array([[3.0, 4.0]])
    statistics.measure(
        x, l2_norm_clip=2.0, noise_multiplier=1e-9, num_directions=1, centred_norm_clip=0.5
    )
    (total, spread), (second, spread_of_second) = seen
    np.testing.assert_allclose(total, [1.2, 1.6])
    assert np.linalg.norm(second) == pytest.approx(0.25)
    assert (spread, spread_of_second) == pytest.approx((2e-9, 0.25e-9))


@pytest.mark.parametrize("wrong", [2 / 3, 1, 3 / 2])
def test_the_noise_follows_its_law(wrong):
    multiplier, clip, size = 3.0, 0.5, 2000
    mean = statistics.measure(
        np.zeros((4, size)), l2_norm_clip=clip, noise_multiplier=multiplier
    ).mean
    law = stats.norm(scale=wrong * multiplier * clip / 4)
    assert (stats.kstest(mean, law.cdf).pvalue > 1e-4) == (wrong == 1)


@pytest.mark.parametrize("wrong", [2 / 3, 1, 3 / 2])
def test_the_noise_of_the_second_sum_follows_its_law(monkeypatch, wrong):
    matrices = []
    strongest = statistics._strongest
    monkeypatch.setattr(
        statistics, "_strongest", lambda m, count: matrices.append(m) or strongest(m, count)
    )
    # Around a noisy mean zeros have second moments of their own.
    monkeypatch.setattr(statistics, "_second_moments", lambda x, *_: np.zeros((60, 60)))
    options = {"num_directions": 1, "centred_norm_clip": 0.5}
    statistics.measure(np.zeros((4, 60)), l2_norm_clip=9.0, noise_multiplier=3.0, **options)
    law = stats.norm(scale=wrong * 3.0 * 0.25 / 4)
    assert (stats.kstest(matrices[0].ravel(), law.cdf).pvalue > 1e-4) == (wrong == 1)


def test_examples_that_are_not_finite_count_as_zero():
    x = np.ones((4, 3))
    x[1, 0], x[2, 2] = np.nan, np.inf
    found = statistics.measure(x, l2_norm_clip=5.0, noise_multiplier=0.0)
    np.testing.assert_allclose(found.mean, [0.5, 0.5, 0.5])


def test_numbers_of_other_dtypes_and_mapped_files_are_taken(tmp_path):
    counts = np.arange(12).reshape(4, 3)
    np.save(tmp_path / "x.npy", counts.astype("float16"))
    for x in (counts, counts.tolist(), np.load(tmp_path / "x.npy", mmap_mode="r")):
        found = statistics.measure(x, l2_norm_clip=1e3, noise_multiplier=0.0)
        np.testing.assert_allclose(found.mean, counts.mean(0))


def test_more_examples_than_a_block_are_all_counted(monkeypatch):
    found = statistics.measure(X, l2_norm_clip=1e3, noise_multiplier=0.0)
    monkeypatch.setattr(statistics, "_BLOCK", 7)
    again = statistics.measure(X, l2_norm_clip=1e3, noise_multiplier=0.0)
    np.testing.assert_allclose(found.mean, again.mean, rtol=1e-6)


@pytest.mark.parametrize("directions", [0, 2])
def test_all_of_it_is_charged_and_composes_with_training(directions):
    found = statistics.measure(
        X, l2_norm_clip=20.0, noise_multiplier=8.0, num_directions=directions
    )
    model = keras.Sequential([keras.Input((6,)), found.layer(), keras.layers.Dense(2)])
    private = tfdp.make_private(model)
    found.charge(private.ledger)
    private.compile(
        tfdp.optimizers.VectorizedDPKerasSGDOptimizer(1.0, 2.0), keras.losses.MeanSquaredError()
    )
    private.fit(X, np.zeros((3000, 2)), batch_size=300, epochs=1, verbose=0)
    independent = RdpAccountant()
    independent.compose(dp_accounting.GaussianDpEvent(8.0), 1 + (directions > 0))
    step = dp_accounting.PoissonSampledDpEvent(0.1, dp_accounting.GaussianDpEvent(2.0))
    independent.compose(step, 10)
    assert private.ledger.epsilon(1e-5) == pytest.approx(independent.get_epsilon(1e-5), rel=1e-3)
    assert "Statistics of the data" in str(private.privacy_statement(1e-5))


def test_an_event_is_known_before_data_are():
    for directions in (0, 3):
        found = statistics.measure(
            X, l2_norm_clip=1.0, noise_multiplier=5.0, num_directions=directions
        )
        assert found.event == statistics.measure_event(5.0, directions)
    assert isinstance(statistics.measure_event(0.0), dp_accounting.NonPrivateDpEvent)


def test_a_fixed_seed_repeats_the_noise_and_is_not_private():
    ledger = tfdp.accounting.PrivacyLedger()
    options = {"l2_norm_clip": 1.0, "noise_multiplier": 5.0}
    first, second = (statistics.measure(X, seed=3, **options) for _ in range(2))
    np.testing.assert_array_equal(first.mean, second.mean)
    assert (first.mean != statistics.measure(X, **options).mean).all()
    first.charge(ledger)
    assert "fixed seed of the statistics" in str(ledger.statement(1e-5))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": np.zeros((0, 3))}, ValueError, r"shape \(0, 3\)"),
        ({"x": np.zeros(3)}, ValueError, r"shape \(3,\)"),
        ({"x": np.array([["a"]])}, TypeError, "`x` must be an array of real numbers"),
        ({"x": np.ones((2, 2), "complex64")}, TypeError, "`x` must be an array of real numbers"),
        ({"l2_norm_clip": 0.0}, ValueError, r"l2_norm_clip=0\.0"),
        ({"noise_multiplier": -1.0}, ValueError, r"noise_multiplier=-1\.0"),
        ({"num_directions": 7}, ValueError, "num_directions=7"),
        ({"num_directions": 1.5}, TypeError, r"num_directions=1\.5"),
        ({"centred_norm_clip": 1.0}, ValueError, r"centred_norm_clip=1\.0"),
        ({"num_directions": 1, "centred_norm_clip": 0.0}, ValueError, r"centred_norm_clip=0\.0"),
        ({"seed": "a"}, TypeError, "seed='a'"),
    ],
)
def test_bad_arguments_are_named(arguments, error, message):
    good = {"x": X, "l2_norm_clip": 1.0, "noise_multiplier": 1.0}
    with pytest.raises(error, match=message):
        statistics.measure(**{**good, **arguments})


def test_only_ledgers_are_charged():
    found = statistics.measure(X, l2_norm_clip=1.0, noise_multiplier=1.0)
    with pytest.raises(TypeError, match="ledger='ledger'"):
        found.charge("ledger")


def test_large_numbers_do_not_overflow():
    x = np.full((3, 4), 1e200)
    found = statistics.measure(x, l2_norm_clip=2.0, noise_multiplier=0.0)
    assert np.linalg.norm(found.mean) == pytest.approx(2.0)
    assert math.isfinite(found.mean.sum())
