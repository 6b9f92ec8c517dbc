"""Tests of epsilon against sources other than the library that computes it."""

import math

import dp_accounting
import mpmath
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from tfdp import accounting
from tfdp.accounting import events, renyi

DELTA = 1e-5
ACCOUNTANTS = ("rdp", "pld")


@pytest.mark.parametrize(
    ("noise", "q", "steps", "delta", "rdp", "pld"),
    [
        # Opacus 1.6, tests/accountants_test.py.
        (1.5, 0.04, 2250, 1e-5, 7.32911117143, None),
        # TAN reference runs: CIFAR-10 and two on ImageNet.
        (3.0, 4096 / 50_000, 2500, 1e-5, 7.10, 6.58),
        (2.5, 32_768 / 1_281_167, 18_000, 8e-7, 7.98, 7.49),
        (2.5, 16_384 / 1_281_167, 72_000, 8e-7, 7.95, 7.49),
        # MNIST with tanh, 40 epochs of expected batch 512.
        (1.23, 512 / 60_000, 4688, 1e-5, 2.58, 2.36),
    ],
)
def test_published_values(noise, q, steps, delta, rdp, pld):
    digits = 5e-3 if rdp < 7.3 or rdp > 7.4 else 1e-3 * rdp
    assert accounting.epsilon(noise, q, steps, delta) == pytest.approx(rdp, abs=digits)
    if pld is not None:
        # Upper bounds all: the mesh here may be tighter than the one published, never looser.
        assert 0.995 * pld <= accounting.epsilon(noise, q, steps, delta, "pld") <= pld + 5e-3


def test_opacus_prv_value():
    # 2249 steps; Opacus adds its error bound of 0.01 to the estimate.
    epsilon = accounting.epsilon(1.5, 0.04, 2249, DELTA, accountant="pld")
    assert epsilon == pytest.approx(6.777395712150674, abs=0.0105)


NOISES = (0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)


@pytest.mark.parametrize(
    ("eta", "steps", "row"),
    [
        (0.13, 1000, (23.7, 5.61, 1.75, 1.02, 0.79, 0.74, 0.70, 0.68)),
        (0.13, 10_000, (28.1, 4.94, 1.35, 0.94, 0.78, 0.73, 0.70, 0.69)),
        (0.95, 1000, (83.6, 25.7, 12.4, 9.10, 7.34, 6.83, 6.48, 6.30)),
        (0.95, 10_000, (126.0, 28.2, 12.0, 8.77, 7.18, 6.73, 6.43, 6.28)),
    ],
)
def test_privacy_wall(eta, steps, row):
    """At a constant signal-to-noise ratio epsilon is flat above a noise of 2, and explodes below.

    The table was made on a fixed mesh, which is up to 3 % looser at the smallest q.
    """
    for noise, expected in zip(NOISES, row, strict=True):
        epsilon = accounting.epsilon(noise, eta * noise * math.sqrt(2 / steps), steps, DELTA, "pld")
        unit = 10.0 ** (math.floor(math.log10(expected)) - 2 + (expected < 1.0))
        assert epsilon <= expected + 0.55 * unit, noise
        assert epsilon >= 0.975 * expected - 0.5 * unit, noise


def integral_rdp(q: float, sigma: float, order: float) -> float:
    """Rényi divergence of the sampled Gaussian by numerical integration in 40 digits."""
    with mpmath.workdps(40):
        q, sigma, order = mpmath.mpf(q), mpmath.mpf(sigma), mpmath.mpf(order)

        def integrand(z):
            ratio = 1 - q + q * mpmath.exp((2 * z - 1) / (2 * sigma**2))
            return mpmath.npdf(z, 0, sigma) * ratio**order

        points = [-30 * sigma, 0, 1, order / 2, order, order + 30 * sigma]
        return float(mpmath.log(mpmath.quad(integrand, sorted(points))) / (order - 1))


@pytest.mark.parametrize(("q", "sigma"), [(0.01, 1.0), (0.1, 2.0), (0.5, 4.0), (1e-4, 0.7)])
@pytest.mark.parametrize("order", [1.5, 2.0, 2.5, 5.0, 7.7, 10.3, 32.0, 128.0])
def test_rdp_curve_matches_integral(q, sigma, order):
    (leaf,) = events.leaves(accounting.dp_sgd_event(sigma, q))
    value = renyi.curve(leaf)[accounting.RDP_ORDERS.index(order)]
    exact = integral_rdp(q, sigma, order)
    assert value >= exact * (1 - 1e-9)
    if order.is_integer():
        assert value == pytest.approx(exact, rel=1e-6, abs=2e-13)
    else:  # the series for fractional orders is an upper bound, loose at the smallest
        assert value <= integral_rdp(q, sigma, math.ceil(order)) + 2e-13


@pytest.mark.parametrize("q", [1e-12, 1e-9, 1e-7])
@pytest.mark.parametrize("sigma", [0.5, 1.0, 30.0])
def test_rounding_never_makes_the_curve_too_small(q, sigma):
    (leaf,) = events.leaves(accounting.dp_sgd_event(sigma, q))
    curve = renyi.curve(leaf)
    assert np.all(curve > 0)
    for order in (1.1, 2.0, 20.0, 128.0):
        if order / sigma**2 > 50:  # the integral would need more digits
            continue
        assert curve[accounting.RDP_ORDERS.index(order)] >= integral_rdp(q, sigma, order)


def balle_wang_epsilon(sigma: float, delta: float) -> float:
    """Analytic Gaussian mechanism, Balle and Wang (2018), theorem 8."""

    def excess(epsilon):
        a, b = 1 / (2 * sigma) - epsilon * sigma, -1 / (2 * sigma) - epsilon * sigma
        return stats.norm.cdf(a) - math.exp(epsilon) * stats.norm.cdf(b) - delta

    return optimize.brentq(excess, 0.0, 200.0, xtol=1e-12)


@pytest.mark.parametrize(
    ("sigma", "steps", "delta"),
    [(1.0, 1, 1e-5), (5.0, 1, 1e-3), (5.0, 30, 1e-5), (20.0, 1000, 1e-8), (0.6, 2, 1e-5)],
)
def test_full_batch_is_the_analytic_gaussian_mechanism(sigma, steps, delta):
    exact = balle_wang_epsilon(sigma / math.sqrt(steps), delta)
    pld = accounting.epsilon(sigma, 1.0, steps, delta, "pld")
    assert exact * (1 - 1e-6) <= pld <= exact * (1 + 1e-3)
    rdp = accounting.epsilon(sigma, 1.0, steps, delta)
    assert exact < rdp < accounting.zcdp_epsilon(steps / (2 * sigma**2), delta)


@pytest.mark.parametrize(
    ("noise", "q", "steps"),
    [(1.0, 0.01, 500), (0.8, 1e-3, 5000), (4.0, 0.3, 100), (1.0, 1e-4, 50_000), (0.5, 0.5, 20)],
)
def test_mesh_is_as_tight_as_a_fine_fixed_one(noise, q, steps):
    reference = dp_accounting.pld.PLDAccountant(value_discretization_interval=1e-4)
    reference.compose(accounting.dp_sgd_event(noise, q), steps)
    epsilon = accounting.epsilon(noise, q, steps, DELTA, "pld")
    assert epsilon <= reference.get_epsilon(DELTA) * (1 + 1e-3)
    assert epsilon <= accounting.epsilon(noise, q, steps, DELTA)


noises = st.floats(0.5, 20.0)
probabilities = st.floats(1e-4, 1.0)
counts = st.integers(1, 10_000)


@given(noises, probabilities, counts, st.floats(1.0, 3.0), st.sampled_from(["sigma", "q", "steps"]))
@settings(max_examples=25, deadline=None)
def test_rdp_epsilon_is_monotone(noise, q, steps, factor, what):
    before = accounting.epsilon(noise, q, steps, DELTA)
    if what == "sigma":
        noise /= factor
    elif what == "q":
        q = min(1.0, q * factor)
    else:
        steps = math.ceil(steps * factor)
    assert accounting.epsilon(noise, q, steps, DELTA) >= before * (1 - 1e-9)


@given(st.floats(0.7, 8.0), st.floats(1e-2, 1.0), st.integers(1, 500), st.floats(1.05, 2.0))
@settings(max_examples=8, deadline=None)
def test_pld_epsilon_is_monotone(noise, q, steps, factor):
    before = accounting.epsilon(noise, q, steps, DELTA, "pld") * (1 - 1e-4)
    assert accounting.epsilon(noise / factor, q, steps, DELTA, "pld") >= before
    assert accounting.epsilon(noise, min(1.0, q * factor), steps, DELTA, "pld") >= before
    assert accounting.epsilon(noise, q, math.ceil(steps * factor), DELTA, "pld") >= before


@given(st.floats(0.6, 10.0), st.floats(1e-3, 1.0), st.integers(1, 300), st.floats(-8, -2))
@settings(max_examples=15, deadline=None)
def test_delta_undoes_epsilon(noise, q, steps, exponent):
    delta = 10.0**exponent
    ledger = accounting.PrivacyLedger()
    ledger.charge(accounting.dp_sgd_event(noise, q), steps)
    for accountant in ACCOUNTANTS:
        epsilon = ledger.epsilon(delta, accountant)
        assume(epsilon > 1e-3)
        assert ledger.delta(epsilon, accountant) == pytest.approx(delta, rel=1e-2)


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_edges(accountant):
    assert accounting.epsilon(1.0, 0.1, 0, DELTA, accountant) == 0.0
    assert accounting.epsilon(0.0, 0.1, 0, DELTA, accountant) == 0.0
    assert accounting.epsilon(0.0, 0.1, 1, DELTA, accountant) == math.inf
    assert accounting.epsilon(1e-9, 0.1, 1, DELTA, accountant) == math.inf
    assert accounting.epsilon(1.0, 0.0, 10, DELTA, accountant) == 0.0
    assert accounting.epsilon(1e300, 0.5, 10, DELTA, accountant) < 1e-2
    assert accounting.epsilon(1.0, 1e-300, 10, DELTA, accountant) < 1e-2
    almost = accounting.epsilon(1.0, 1 - 1e-16, 10, DELTA, accountant)
    assert almost == accounting.epsilon(1.0, 1.0, 10, DELTA, accountant)


def test_dp_sgd_event():
    gaussian = dp_accounting.GaussianDpEvent
    assert accounting.dp_sgd_event(2.0, 0.1) == dp_accounting.PoissonSampledDpEvent(
        0.1, gaussian(2.0)
    )
    assert accounting.dp_sgd_event(2.0, 1) == gaussian(2.0)
    assert accounting.dp_sgd_event(2.0, 1.0, microbatch_size=8) == gaussian(1.0)
    assert accounting.dp_sgd_event(0, 0.1) == dp_accounting.NonPrivateDpEvent()


def test_orders_extend_those_of_dp_accounting():
    defaults = dp_accounting.rdp.rdp_privacy_accountant.DEFAULT_RDP_ORDERS
    assert set(map(float, defaults)) <= set(accounting.RDP_ORDERS)
    assert list(accounting.RDP_ORDERS) == sorted(set(accounting.RDP_ORDERS))


GOOD = {"noise_multiplier": 1.0, "sampling_probability": 0.1, "steps": 10, "delta": 1e-5}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"noise_multiplier": -1.0}, ValueError),
        ({"noise_multiplier": math.nan}, ValueError),
        ({"noise_multiplier": math.inf}, ValueError),
        ({"noise_multiplier": "1"}, TypeError),
        ({"sampling_probability": 1.5}, ValueError),
        ({"sampling_probability": True}, TypeError),
        ({"steps": -1}, ValueError),
        ({"steps": 2**63}, ValueError),
        ({"steps": 1.0}, TypeError),
        ({"delta": 0.0}, ValueError),
        ({"delta": 1.0}, ValueError),
        ({"accountant": "prv"}, ValueError),
    ],
)
def test_bad_arguments(change, error):
    (name,) = change
    with pytest.raises(error, match=f"Received: {name}="):
        accounting.epsilon(**{**GOOD, **change})


def test_bad_arguments_of_the_helpers():
    with pytest.raises(ValueError, match="Received: microbatch_size=0"):
        accounting.dp_sgd_event(1.0, 0.1, microbatch_size=0)
    with pytest.raises(ValueError, match="Received: rho=-1"):
        accounting.zcdp_epsilon(-1, 0.1)
