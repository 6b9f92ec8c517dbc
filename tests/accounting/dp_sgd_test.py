"""Tests of batches other than Poisson samples: of fixed size, and cut to a capacity."""

import math

import dp_accounting
import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from tfdp import accounting
from tfdp.accounting import events, renyi

DELTA = 1e-5
N = 60_000
Q = 512 / N
ACCOUNTANTS = ("rdp", "pld")


def epsilon(event, steps=1, accountant="rdp", delta=DELTA) -> float:
    ledger = accounting.PrivacyLedger()
    ledger.charge(event, steps)
    return ledger.epsilon(delta, accountant)


def delta(event, steps, bound, accountant) -> float:
    ledger = accounting.PrivacyLedger()
    ledger.charge(event, steps)
    return ledger.delta(bound, accountant)


def test_events():
    gaussian = dp_accounting.GaussianDpEvent
    fixed = accounting.fixed_size_dp_sgd_event
    assert fixed(2.0, 3, 9) == dp_accounting.SampledWithoutReplacementDpEvent(9, 3, gaussian(2.0))
    assert fixed(2.0, 9, 9) == gaussian(2.0)
    assert fixed(2.0, 3, 9, microbatch_size=3).event == gaussian(1.0)
    assert fixed(0.0, 3, 9) == dp_accounting.NonPrivateDpEvent()

    cut = accounting.truncated_dp_sgd_event
    kind = dp_accounting.dp_event.TruncatedSubsampledGaussianDpEvent
    assert cut(2.0, 0.5, 9, 8) == kind(9, 0.5, 8, 2.0)
    assert cut(2.0, 1, 9, 8, microbatch_size=2) == kind(9, 1.0, 8, 1.0)
    assert cut(2.0, 0.5, 9, 9) == accounting.dp_sgd_event(2.0, 0.5)
    assert cut(0.0, 0.5, 9, 8) == dp_accounting.NonPrivateDpEvent()


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_degenerate_events(accountant):
    fixed = dp_accounting.SampledWithoutReplacementDpEvent
    cut = dp_accounting.dp_event.TruncatedSubsampledGaussianDpEvent
    gaussian = dp_accounting.GaussianDpEvent
    plain = epsilon(gaussian(2.0), 3, accountant)
    assert epsilon(fixed(9, 9, gaussian(2.0)), 3, accountant) == plain
    assert epsilon(fixed(9, 0, gaussian(2.0)), 3, accountant) == 0.0
    assert epsilon(fixed(0, 0, gaussian(2.0)), 3, accountant) == 0.0
    assert epsilon(fixed(9, 3, gaussian(0.0)), 3, accountant) == math.inf
    two = dp_accounting.SelfComposedDpEvent(gaussian(2.0), 4)
    one = epsilon(fixed(9, 3, gaussian(1.0)), 3, accountant)
    assert epsilon(fixed(9, 3, two), 3, accountant) == one
    poisson = epsilon(accounting.dp_sgd_event(2.0, 0.5), 3, accountant)
    assert epsilon(cut(9, 0.5, 9, 2.0), 3, accountant) == poisson
    assert epsilon(cut(9, 1.0, 9, 2.0), 3, accountant) == plain
    assert epsilon(cut(9, 0.5, 0, 2.0), 3, accountant) == 0.0
    assert epsilon(cut(9, 0.0, 5, 2.0), 3, accountant) == 0.0
    assert epsilon(cut(9, 0.5, 5, 0.0), 3, accountant) == math.inf
    # Every example sampled, one of ten always pushed out: twice the sensitivity at worst.
    assert epsilon(cut(10, 1.0, 9, 2.0), 3, accountant) == pytest.approx(
        epsilon(gaussian(1.0), 3, accountant), rel=1e-3
    )


# Batches of fixed size.


def gaussian_delta(sigma, bound):
    a, b = 1 / (2 * sigma) - bound * sigma, -1 / (2 * sigma) - bound * sigma
    return stats.norm.cdf(a) - math.exp(bound) * stats.norm.cdf(b)


@pytest.mark.parametrize(("batch", "sigma"), [(100, 4.0), (500, 4.0), (10, 1.0)])
def test_one_batch_of_fixed_size_by_the_theorem(batch, sigma):
    """Theorem 9 of Balle, Barthe and Gaboardi (2018), replacing: sensitivity 2C."""
    event, q = accounting.fixed_size_dp_sgd_event(sigma, batch, 1000), batch / 1000
    for bound in (0.0, 0.01, 0.1, 0.5):
        exact = q * gaussian_delta(sigma / 2, math.log1p(math.expm1(bound) / q))
        exact = min(exact, gaussian_delta(sigma, bound))
        found = delta(event, 1, bound, "pld")
        assert exact * (1 - 1e-9) <= found <= exact * (1 + 1e-3) + 1e-12


def test_fixed_size_holds_for_exchanged_examples():
    """A mechanism of this kind, worked out: of 4 values draw 1, add noise; one value changes."""
    sigma, values, steps = 3.0, (1.0, -1.0, -1.0, -1.0), 3
    grid = np.linspace(-40, 40, 200_001)

    def density(data):
        return sum(stats.norm.pdf(grid, x, sigma) for x in data) / len(data)

    first, second = density(values), density((-1.0, *values[1:]))
    event = accounting.fixed_size_dp_sgd_event(sigma, 1, 4)
    for upper, lower in ((first, second), (second, first)):
        loss = np.log(upper / lower)
        for bound in (0.05, 0.2):
            exact = integrate.trapezoid(np.maximum(upper - math.exp(bound) * lower, 0), grid)
            assert delta(event, 1, bound, "pld") >= exact * (1 - 1e-6)
        for order in (2.0, 8.0):
            moment = integrate.trapezoid(upper * np.exp((order - 1) * loss), grid)
            (leaf,) = events.leaves(event)
            value = renyi.curve(leaf)[accounting.RDP_ORDERS.index(order)]
            assert value >= math.log(moment) / (order - 1)
    assert epsilon(event, steps, "pld") <= epsilon(event, steps)


def wang_rdp(q, sigma, order):
    """Theorem 27 of Wang, Balle and Kasiviswanathan for integer orders, in 60 digits."""
    with mpmath.workdps(60):
        q, sigma = mpmath.mpf(q), mpmath.mpf(sigma)

        def moment(x):  # of the Gaussian: exp((x - 1) * divergence of order x)
            return mpmath.exp(x * (x - 1) / (2 * sigma**2))

        def difference(n):  # the n-th forward difference of the moments, n even
            terms = ((-1) ** (n - i) * mpmath.binomial(n, i) * moment(i) for i in range(n + 1))
            return mpmath.fsum(terms)

        total = mpmath.mpf(1)
        for j in range(2, order + 1):
            if j == 2:
                term = min(4 * (moment(2) - 1), 2 * moment(2))
            else:
                spread = mpmath.sqrt(difference(2 * (j // 2)) * difference(2 * ((j + 1) // 2)))
                term = min(4 * spread, 2 * moment(j))
            total += q**j * mpmath.binomial(order, j) * term
        return float(mpmath.log(total) / (order - 1))


@pytest.mark.parametrize(("batch", "sigma"), [(10, 2.0), (100, 6.0), (1, 1.0)])
@pytest.mark.parametrize("order", [2, 5, 20])
def test_fixed_size_curve_by_the_theorem(batch, sigma, order):
    (leaf,) = events.leaves(accounting.fixed_size_dp_sgd_event(sigma, batch, 1000))
    value = renyi.curve(leaf)[accounting.RDP_ORDERS.index(float(order))]
    exact = min(wang_rdp(batch / 1000, sigma / 2, order), order / (2 * sigma**2))
    assert value == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
@given(st.floats(0.5, 20.0), st.integers(1, 999), st.integers(1, 500))
@settings(max_examples=6, deadline=None)
def test_fixed_size_lies_between_poisson_and_no_sampling(accountant, sigma, batch, steps):
    fixed = epsilon(accounting.fixed_size_dp_sgd_event(sigma, batch, 1000), steps, accountant)
    whole = epsilon(accounting.dp_sgd_event(sigma, 1.0), steps, accountant)
    poisson = epsilon(accounting.dp_sgd_event(sigma, batch / 1000), steps, accountant)
    assert poisson * (1 - 1e-3) <= fixed <= whole * (1 + 1e-9)
    if accountant == "pld":
        rdp = epsilon(accounting.fixed_size_dp_sgd_event(sigma, batch, 1000), steps)
        assert fixed <= rdp * (1 + 1e-3) + 1e-6


# Batches cut to a capacity.


def test_overflow_probability_and_capacity():
    exact = sum(math.comb(20, k) * 0.3**k * 0.7 ** (20 - k) for k in range(11, 21))
    assert accounting.overflow_probability(20, 0.3, 10) == pytest.approx(exact, rel=1e-12)
    assert accounting.overflow_probability(20, 0.3, 20) == 0.0
    for tolerated in (0.1, 1e-12, 1e-100):
        capacity = accounting.capacity_for(N, Q, tolerated)
        assert accounting.overflow_probability(N, Q, capacity) <= tolerated
        assert accounting.overflow_probability(N, Q, capacity - 1) > tolerated
    assert accounting.capacity_for(N, 0.0) == 0
    assert accounting.capacity_for(N, 1.0) == N
    assert accounting.capacity_for(3, 0.5) == 3


def test_rare_cuts_cost_next_to_nothing():
    capacity = accounting.capacity_for(N, Q)
    assert capacity < 700
    for accountant in ACCOUNTANTS:
        cut = epsilon(accounting.truncated_dp_sgd_event(1.23, Q, N, capacity), 4688, accountant)
        poisson = accounting.epsilon(1.23, Q, 4688, DELTA, accountant)
        assert poisson * (1 - 1e-6) <= cut <= poisson * (1 + 1e-4)


@pytest.mark.parametrize("capacity", [541, 583, 611])
def test_cut_batches_by_the_library(capacity):
    """`dp_accounting` mixes the same two cases, the second one more loosely."""
    event = accounting.truncated_dp_sgd_event(1.23, Q, N, capacity)
    library = dp_accounting.pld.PLDAccountant(value_discretization_interval=1e-3)
    library.compose(event, 4688)
    found = epsilon(event, 4688, "pld")
    assert 0.9 * library.get_epsilon(DELTA) <= found <= 1.002 * library.get_epsilon(DELTA)
    assert found <= epsilon(event, 4688)


def test_cut_batches_hold_for_a_worked_out_mechanism():
    """Of n ones keep two at random, sum, add noise: one example more changes this much."""
    sigma, q, capacity, n = 2.0, 0.5, 2, 4
    grid = np.linspace(-30, 30, 200_001)

    def density(others, x=None):
        """Of `others` examples of value -1, and one of value x."""
        total = np.zeros_like(grid)
        for k in range(others + 1):
            chance = stats.binom.pmf(k, others, q)
            alone = stats.norm.pdf(grid, -min(k, capacity), sigma)
            if x is None:
                total += chance * alone
                continue
            kept = min(1.0, capacity / (k + 1))
            joined = stats.norm.pdf(grid, x - min(k, capacity - 1), sigma)
            total += chance * ((1 - q + q * (1 - kept)) * alone + q * kept * joined)
        return total

    event = accounting.truncated_dp_sgd_event(sigma, q, n, capacity)
    for others in (n - 1, n):  # one of the n removed, and one added
        with_it, without = density(others, 1.0), density(others)
        for upper, lower in ((with_it, without), (without, with_it)):
            for bound in (0.1, 0.5, 1.0):
                exact = integrate.trapezoid(np.maximum(upper - math.exp(bound) * lower, 0), grid)
                assert delta(event, 1, bound, "pld") >= exact * (1 - 1e-6)
                assert delta(event, 1, bound, "rdp") >= exact
            for order in (2.0, 8.0):
                moment = integrate.trapezoid(upper * (upper / lower) ** (order - 1), grid)
                (leaf,) = events.leaves(event)
                value = renyi.curve(leaf)[accounting.RDP_ORDERS.index(order)]
                assert value >= math.log(moment) / (order - 1)


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
@given(st.floats(0.6, 10.0), st.floats(0.01, 0.9), st.integers(1, 300), st.integers(1, 999))
@settings(max_examples=6, deadline=None)
def test_capacity_costs_and_more_of_it_costs_less(accountant, sigma, q, steps, capacity):
    poisson = epsilon(accounting.dp_sgd_event(sigma, q), steps, accountant)
    before = math.inf
    for size in (capacity, min(capacity + 20, 999), accounting.capacity_for(1000, q)):
        cut = epsilon(
            accounting.truncated_dp_sgd_event(sigma, q, 1000, max(size, capacity)),
            steps,
            accountant,
        )
        assert poisson * (1 - 1e-3) <= cut <= before * (1 + 1e-3)
        before = cut
    assert before <= poisson * (1 + 2e-3)


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_delta_and_remaining_steps_of_cut_batches(accountant):
    event = accounting.truncated_dp_sgd_event(1.23, Q, N, 640)
    ledger = accounting.PrivacyLedger()
    ledger.charge(event, 1000)
    ledger.charge(dp_accounting.GaussianDpEvent(10.0))
    bound = ledger.epsilon(DELTA, accountant)
    assert ledger.delta(bound, accountant) == pytest.approx(DELTA, rel=1e-2)
    n = ledger.remaining_steps(event, 3.0, DELTA, accountant)
    assert ledger.epsilon_after(event, n, DELTA, accountant) <= 3.0
    assert ledger.epsilon_after(event, n + 1, DELTA, accountant) > 3.0


def test_slack_never_reaches_delta():
    """A delta below the chance of a full batch leaves only the mixed curves."""
    event = accounting.truncated_dp_sgd_event(4.0, Q, N, 600)
    overflow = accounting.overflow_probability(N, Q, 599)
    for small in (overflow / 10, 1e-9):
        assert math.isfinite(epsilon(event, 1, "rdp", small))
        assert epsilon(event, 1, "pld", small) <= epsilon(event, 1, "rdp", small)
    assert delta(event, 10**9, 0.1, "rdp") == 1.0


# Both.

MAKE = {
    "fixed size": lambda sigma, q: accounting.fixed_size_dp_sgd_event(sigma, round(1000 * q), 1000),
    "cut": lambda sigma, q: accounting.truncated_dp_sgd_event(sigma, q, 1000, 500),
}


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
@pytest.mark.parametrize("kind", MAKE)
@given(st.floats(0.7, 8.0), st.floats(0.01, 0.6), st.integers(1, 200), st.floats(1.1, 1.6))
@settings(max_examples=4, deadline=None)
def test_monotone(kind, accountant, sigma, q, steps, factor):
    make = MAKE[kind]
    before = epsilon(make(sigma, q), steps, accountant) * (1 - 1e-3)
    assert epsilon(make(sigma / factor, q), steps, accountant) >= before
    assert epsilon(make(sigma, q * factor), steps, accountant) >= before
    assert epsilon(make(sigma, q), math.ceil(steps * factor), accountant) >= before


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (accounting.fixed_size_dp_sgd_event, (-1.0, 3, 9), "noise_multiplier"),
        (accounting.fixed_size_dp_sgd_event, (1.0, 10, 9), "batch_size"),
        (accounting.fixed_size_dp_sgd_event, (1.0, 0, 9), "batch_size"),
        (accounting.fixed_size_dp_sgd_event, (1.0, 1, 0), "num_examples"),
        (accounting.truncated_dp_sgd_event, (1.0, 1.1, 9, 8), "sampling_probability"),
        (accounting.truncated_dp_sgd_event, (1.0, 0.1, 0, 8), "num_examples"),
        (accounting.truncated_dp_sgd_event, (1.0, 0.1, 9, 0), "capacity"),
        (accounting.overflow_probability, (9, 0.1, -1), "capacity"),
        (accounting.capacity_for, (9, 0.1, 0.0), "overflow_probability"),
        (accounting.capacity_for, (9, 1.1), "sampling_probability"),
    ],
)
def test_bad_arguments(function, arguments, name):
    with pytest.raises(ValueError, match=f"Received: {name}="):
        function(*arguments)


def test_microbatches_are_checked():
    with pytest.raises(ValueError, match="Received: microbatch_size=0"):
        accounting.fixed_size_dp_sgd_event(1.0, 3, 9, microbatch_size=0)
    with pytest.raises(ValueError, match="Received: microbatch_size=0"):
        accounting.truncated_dp_sgd_event(1.0, 0.1, 9, 8, microbatch_size=0)
