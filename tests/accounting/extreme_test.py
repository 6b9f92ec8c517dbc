"""Legal arguments at the ends of their ranges are answered, within seconds and soundly."""

import math
import sys
import time
import warnings

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tfdp import accounting

# Of processor time, on a slow machine. What these tests are for took hours.
SECONDS = 30

noises = st.one_of(st.just(0.0), st.floats(-8, 8).map(lambda x: 10.0**x), st.just(1e308))
probabilities = st.one_of(st.floats(-13, 0).map(lambda x: 10.0**x), st.sampled_from([0.0, 5e-324]))
counts = st.one_of(
    st.floats(0, 18).map(lambda x: int(10.0**x)), st.sampled_from([0, 1, 2, sys.maxsize])
)
deltas = st.one_of(
    st.floats(-12, -1e-3).map(lambda x: 10.0**x), st.sampled_from([5e-324, 1 - 1e-16])
)


@pytest.fixture(autouse=True)
def deltas_may_be_large():
    """Warnings about deltas above one over the number of examples are not what is tested."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "delta = .* is larger than one over", UserWarning)
        yield


def within_seconds(function, *arguments, **options):
    started = time.process_time()
    try:
        return function(*arguments, **options)
    finally:
        assert time.process_time() - started < SECONDS


@given(noises, probabilities, counts, deltas)
@example(50.0, 1e-9, 581_529_657, 1e-6)
@example(1e6, 0.5, 2**62, 1e-6)
@example(1e-6, 1e-12, 2**62, 1e-6)
@settings(max_examples=30, deadline=None)
def test_epsilon_and_delta(noise, probability, steps, delta):
    found = {}
    for accountant in ("rdp", "pld"):
        found[accountant] = within_seconds(
            accounting.epsilon, noise, probability, steps, delta, accountant
        )
        assert found[accountant] >= 0.0
    if delta >= 1e-9 and found["rdp"] < 100:  # Where both are tight, none is far above the other.
        assert found["pld"] <= found["rdp"] * 1.01 + 1e-6
    ledger = accounting.PrivacyLedger()
    ledger.charge(accounting.dp_sgd_event(noise, probability), steps)
    for accountant in ("rdp", "pld"):
        assert 0.0 <= within_seconds(ledger.delta, 1.0, accountant) <= 1.0


@given(st.floats(-6, 6).map(lambda x: 10.0**x), probabilities, counts, deltas)
@settings(max_examples=15, deadline=None)
def test_noise_multiplier(target, probability, steps, delta):
    try:
        found = within_seconds(accounting.noise_multiplier, target, probability, steps, delta)
    except ValueError as error:
        assert "Received" in str(error)
        return
    assert accounting.epsilon(found, probability, steps, delta) <= target * (1 + 1e-9)


@given(noises, probabilities, st.floats(-6, 6).map(lambda x: 10.0**x), deltas)
@settings(max_examples=15, deadline=None)
def test_remaining_steps(noise, probability, target, delta):
    ledger = accounting.PrivacyLedger()
    step = accounting.dp_sgd_event(noise, probability)
    found = within_seconds(ledger.remaining_steps, step, target, delta)
    assert 0 <= found <= sys.maxsize
    assert ledger.epsilon_after(step, found, delta) <= target or found == 0


def test_what_cannot_be_composed_is_bounded_by_the_other_accountant():
    arguments = 1e6, 0.5, 2**62, 1e-6
    pld = accounting.epsilon(*arguments, "pld")
    assert pld == accounting.epsilon(*arguments, "rdp") < math.inf
