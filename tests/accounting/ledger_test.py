"""Tests of the ledger and of its JSON."""

import json
import math
import sys

import dp_accounting
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdp import accounting
from tfdp.accounting import serialization

DELTA = 1e-5
STEP = accounting.dp_sgd_event(1.1, 0.01)
SCORE = dp_accounting.GaussianDpEvent(5.0)
ZCDP = dp_accounting.dp_event.ZCDpEvent
FIXED = dp_accounting.SampledWithoutReplacementDpEvent
TRUNCATED = dp_accounting.dp_event.TruncatedSubsampledGaussianDpEvent


def ledger_of(*charges) -> accounting.PrivacyLedger:
    ledger = accounting.PrivacyLedger()
    for charge in charges:
        ledger.charge(*charge)
    return ledger


noise = st.floats(0.5, 50.0)
gaussians = st.builds(dp_accounting.GaussianDpEvent, noise)
poisson = st.builds(dp_accounting.PoissonSampledDpEvent, st.floats(0, 1), gaussians)
simple = st.one_of(
    gaussians,
    poisson,
    st.builds(FIXED, st.integers(5, 9), st.integers(0, 5), gaussians),
    st.builds(TRUNCATED, st.integers(0, 99), st.floats(0, 1), st.integers(0, 99), noise),
    st.builds(dp_accounting.LaplaceDpEvent, noise),
    st.builds(ZCDP, st.floats(0, 1), st.floats(0, 1)),
    st.just(dp_accounting.NoOpDpEvent()),
    st.just(dp_accounting.NonPrivateDpEvent()),
)
events = st.recursive(
    simple,
    lambda inner: st.one_of(
        st.builds(dp_accounting.SelfComposedDpEvent, inner, st.integers(0, 9)),
        st.builds(dp_accounting.ComposedDpEvent, st.lists(inner, max_size=3)),
    ),
    max_leaves=4,
)
details = st.dictionaries(
    st.text(min_size=1).filter(str.strip),
    st.one_of(st.text(), st.integers(), st.booleans(), st.floats(allow_nan=False)),
    max_size=3,
)
charges = st.tuples(
    events,
    st.integers(0, 1000),
    st.sampled_from(["DP-SGD step", "score"]),
    details,
    st.one_of(st.none(), events),
)


def random_ledger(drawn, reasons=()) -> accounting.PrivacyLedger:
    ledger = accounting.PrivacyLedger()
    for event, count, description, detail, estimate in drawn:
        ledger.charge(event, count, description=description, details=detail, estimate=estimate)
    for reason in reasons:
        ledger.mark_not_private(reason)
    return ledger


def test_empty_ledger_costs_nothing():
    ledger = accounting.PrivacyLedger()
    for accountant in ("rdp", "pld"):
        assert ledger.epsilon(DELTA, accountant) == 0.0
        assert ledger.delta(0.0, accountant) == 0.0
    assert ledger.releases == ()


def test_epsilon_matches_the_one_line_function():
    ledger = ledger_of((STEP, 1000))
    for accountant in ("rdp", "pld"):
        expected = accounting.epsilon(1.1, 0.01, 1000, DELTA, accountant)
        assert ledger.epsilon(DELTA, accountant) == expected


def test_composition_is_over_everything_charged():
    ledger = ledger_of((STEP, 500), (SCORE, 3), (STEP, 500))
    rdp = dp_accounting.rdp.RdpAccountant(accounting.RDP_ORDERS)
    pld = dp_accounting.pld.PLDAccountant()
    for accountant in (rdp, pld):
        accountant.compose(STEP, 1000).compose(SCORE, 3)
    assert ledger.epsilon(DELTA) == pytest.approx(rdp.get_epsilon(DELTA), rel=1e-6)
    assert ledger.epsilon(DELTA, "pld") == pytest.approx(pld.get_epsilon(DELTA), rel=1e-3)
    assert ledger.delta(2.0) == pytest.approx(rdp.get_delta(2.0), rel=1e-6)


def test_pld_of_several_gaussians_on_one_sample():
    """Two queries on one Poisson sample are one with the noise of both; PLD alone refuses that."""
    both = dp_accounting.PoissonSampledDpEvent(
        0.1,
        dp_accounting.ComposedDpEvent(
            [
                dp_accounting.GaussianDpEvent(2.0),
                dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(4.0), 4),
            ]
        ),
    )
    ledger = ledger_of((both, 100))
    sigma = (1 / 4 + 4 / 16) ** -0.5
    for accountant in ("rdp", "pld"):
        expected = accounting.epsilon(sigma, 0.1, 100, DELTA, accountant)
        assert ledger.epsilon(DELTA, accountant) == pytest.approx(expected, rel=1e-9)


def test_pld_refuses_what_has_no_distribution():
    ledger = ledger_of((ZCDP(0.01),))
    assert ledger.epsilon(DELTA) > 0
    with pytest.raises(ValueError, match=r'"rdp".*Received: event=ZCDpEvent'):
        ledger.epsilon(DELTA, "pld")


def test_laplace_is_accounted():
    ledger = ledger_of((dp_accounting.LaplaceDpEvent(10.0), 2))
    assert ledger.epsilon(DELTA, "pld") == pytest.approx(0.2, rel=1e-3)
    assert 0.19 < ledger.epsilon(1e-12) < 0.21
    assert ledger_of((dp_accounting.LaplaceDpEvent(0.0),)).epsilon(DELTA) == math.inf


def test_non_private_event():
    ledger = ledger_of((STEP, 10), (dp_accounting.NonPrivateDpEvent(),))
    for accountant in ("rdp", "pld"):
        assert ledger.epsilon(DELTA, accountant) == math.inf
        assert ledger.delta(100.0, accountant) == 1.0
        assert ledger.remaining_steps(STEP, 100.0, DELTA, accountant) == 0


def test_adjacent_equal_charges_merge():
    ledger = accounting.PrivacyLedger()
    ledger.charge(STEP, 2, details={"a": 1, "b": 2})
    ledger.charge(STEP, 3, details={"b": np.int64(2), "a": 1})
    assert [r.count for r in ledger.releases] == [5]
    ledger.charge(STEP, 1, details={"a": True, "b": 2})
    ledger.charge(STEP, 1, details={"a": 1.0, "b": 2})
    ledger.charge(STEP, 1, description="other")
    ledger.charge(SCORE, 0)
    ledger.charge(SCORE, 1)
    ledger.charge(STEP, 1)
    assert [r.count for r in ledger.releases] == [5, 1, 1, 1, 1, 1]


def test_releases_cannot_be_changed_from_outside():
    inner = [SCORE]
    given_details = {"a": 1}
    ledger = accounting.PrivacyLedger()
    ledger.charge(dp_accounting.ComposedDpEvent(inner), details=given_details)
    before = ledger.to_json()
    inner.append(STEP)
    given_details["a"] = 2
    ledger.releases[0].details["a"] = 3
    assert ledger.to_json() == before
    with pytest.raises(AttributeError):
        ledger.releases[0].count = 0


def test_numpy_numbers_become_plain_ones():
    ledger = accounting.PrivacyLedger()
    ledger.charge(
        dp_accounting.GaussianDpEvent(np.float64(2.0)),
        np.int64(3),
        details={"clip": np.float32(0.5), "flag": np.bool_(True)},
    )
    (release,) = ledger.releases
    assert type(release.event.noise_multiplier) is float
    assert type(release.count) is int
    assert release.details == {"clip": 0.5, "flag": True}
    assert accounting.PrivacyLedger.from_json(ledger.to_json()) == ledger


def test_estimates_are_kept_and_cost_nothing():
    ledger = accounting.PrivacyLedger()
    ledger.charge(SCORE, 2, estimate=STEP)
    ledger.charge(SCORE, 3, estimate=STEP)
    ledger.charge(SCORE, 4)
    ledger.charge(SCORE, 5, estimate=SCORE)
    assert [(r.count, r.estimate) for r in ledger.releases] == [(5, STEP), (4, None), (5, SCORE)]
    assert ledger.epsilon(DELTA) == ledger_of((SCORE, 14)).epsilon(DELTA)
    assert ledger != ledger_of((SCORE, 14))
    assert ledger.copy() == ledger.union(ledger) == ledger
    assert accounting.PrivacyLedger.from_json(ledger.to_json()) == ledger


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_curve(accountant):
    ledger = ledger_of((STEP, 100), (SCORE, 1))
    deltas, epsilons = ledger.curve(accountant=accountant)
    assert deltas.shape == epsilons.shape == (33,)
    assert deltas[0] == pytest.approx(1e-10)
    assert deltas[-1] == pytest.approx(1e-2)
    assert np.all(np.diff(epsilons) < 0)
    (delta,), (epsilon,) = ledger.curve([DELTA], accountant)
    assert (delta, epsilon) == (DELTA, ledger.epsilon(DELTA, accountant))
    with pytest.raises(ValueError, match="Received: deltas=0"):
        ledger.curve([DELTA, 0.0])


def test_epsilon_after_charges_nothing():
    ledger = ledger_of((STEP, 100))
    twin = ledger.copy()
    ahead = ledger.epsilon_after(STEP, 50, DELTA)
    assert ledger == twin
    twin.charge(STEP, 50)
    assert twin.epsilon(DELTA) == ahead
    assert ledger.epsilon_after(STEP, 0, DELTA) == ledger.epsilon(DELTA)


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_remaining_steps_is_exact(accountant):
    ledger = ledger_of((STEP, 1000), (SCORE, 2))
    n = ledger.remaining_steps(STEP, 4.0, DELTA, accountant)
    assert ledger.epsilon_after(STEP, n, DELTA, accountant) <= 4.0
    assert ledger.epsilon_after(STEP, n + 1, DELTA, accountant) > 4.0


def test_remaining_steps_edges():
    ledger = ledger_of((STEP, 1000))
    spent = ledger.epsilon(DELTA)
    assert ledger.remaining_steps(STEP, spent, DELTA) == 0
    assert ledger.remaining_steps(STEP, spent / 2, DELTA) == 0
    assert ledger.remaining_steps(STEP, 0.0, DELTA) == 0
    assert ledger.remaining_steps(STEP, math.inf, DELTA) == sys.maxsize
    nothing = dp_accounting.NoOpDpEvent()
    assert ledger.remaining_steps(nothing, spent * 2, DELTA) == sys.maxsize
    assert ledger.remaining_steps(nothing, spent / 2, DELTA) == 0
    assert ledger.remaining_steps(dp_accounting.NonPrivateDpEvent(), 9.0, DELTA) == 0


@given(st.lists(charges, max_size=4), st.lists(st.sampled_from(["a", "b"]), max_size=3))
@settings(max_examples=60, deadline=None)
def test_json_round_trip(drawn, reasons):
    ledger = random_ledger(drawn, reasons)
    text = ledger.to_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    again = accounting.PrivacyLedger.from_json(text)
    assert again == ledger
    assert again.releases == ledger.releases
    assert again.not_private_reasons == ledger.not_private_reasons
    assert again.epsilon(DELTA) == ledger.epsilon(DELTA)


def document(**changes) -> str:
    base = json.loads(ledger_of((STEP, 10)).to_json())
    base.update(changes)
    return json.dumps({**base, "digest": serialization.digest(base)})


def release(**changes) -> str:
    entry = json.loads(ledger_of((STEP, 10)).to_json())["releases"][0]
    entry.update(changes)
    entry = {k: v for k, v in entry.items() if v is not None or k not in changes}
    return document(releases=[entry], total=entry["count"])


def fixed_size(**changes) -> dict:
    gaussian = {"type": "GaussianDpEvent", "noise_multiplier": 1.0}
    event = {"source_dataset_size": 9, "sample_size": 4, "event": gaussian}
    return {"type": "SampledWithoutReplacementDpEvent", **event, **changes}


def truncated(**changes) -> dict:
    event = {"dataset_size": 9, "sampling_probability": 0.5, "truncated_batch_size": 4}
    event |= {"type": "TruncatedSubsampledGaussianDpEvent", "noise_multiplier": 1.0}
    return event | changes


def nested(depth: int) -> dict:
    event = {"type": "NoOpDpEvent"}
    for _ in range(depth):
        event = {"type": "SelfComposedDpEvent", "event": event, "count": 1}
    return event


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "text="),
        ("{", "text={"),
        ("[" * 100_000, r"text=\["),
        ("3", "text=3"),
        ("[]", r"text=\[\]"),
        ("NaN", "text=NaN"),
        (document(format="other"), "format='other'"),
        (document(version=0), "version=0"),
        (document(version=2), "version=2"),  # had no digest
        (document(version=4), "version=4"),
        (document(version=3.0), r"version=3\.0"),
        (document(version="3"), "version='3'"),
        (document(version=[3]), r"version=\[3\]"),
        (document(version=True), "version=True"),
        (document(version=None), "version=None"),
        (document(more=1), "keys="),
        (document(releases={}), "releases="),
        (document(releases=[3]), "release=3"),
        (document(not_private_reasons="x"), "not_private_reasons='x'"),
        (document(not_private_reasons=[""]), "reason=''"),
        (release(event=None), "keys="),
        (release(event="Gaussian"), "event='Gaussian'"),
        (release(event={"type": "PickleDpEvent"}), "event type='PickleDpEvent'"),
        (release(event={"type": ["GaussianDpEvent"]}), "event type="),
        (release(event={"type": "GaussianDpEvent"}), "keys="),
        (release(event={"type": "GaussianDpEvent", "noise_multiplier": -1}), "noise_multiplier=-1"),
        (release(event={"type": "GaussianDpEvent", "noise_multiplier": "1"}), "noise_multiplier="),
        (release(event={"type": "ComposedDpEvent", "events": 3}), "events=3"),
        (release(event=nested(100)), "event="),
        (release(count=0), "count=0"),
        (release(count=-1), "count=-1"),
        (release(count=1.5), "count=1.5"),
        (release(count=2**63), "count="),
        (release(description=""), "description="),
        (release(description=3), "description=3"),
        (release(details=[]), r"details=\[\]"),
        (release(details={"a": [1]}), "a"),
        (release(details={"a": {"float": "nan"}}), "value="),
        (release(origin=3), "origin=3"),
        (release(estimate=None), "keys="),
        (release(estimate=3), "event=3"),
        (release(estimate=nested(100)), "event="),
        (release(estimate={"type": "UnsupportedDpEvent"}), "event type="),
        (release(estimate={"type": "GaussianDpEvent", "noise_multiplier": -1}), "noise_mult"),
        (release(event=fixed_size(source_dataset_size=3)), "sample_size=4"),
        (release(event=fixed_size(sample_size=4.0)), "sample_size=4.0"),
        (release(event=fixed_size(sample_size={"float": "inf"})), "sample_size=inf"),
        (release(event=fixed_size(sample_size=[4])), r"sample_size=\[4\]"),
        (release(event=fixed_size(event=None)), "event=None"),
        (release(event=fixed_size(event={"type": "NonPrivateDpEvent"})), "event=Sampled"),
        (release(event=fixed_size(extra=1)), "keys="),
        (release(event=truncated(dataset_size=2**63)), "dataset_size="),
        (release(event=truncated(dataset_size=True)), "dataset_size=True"),
        (release(event=truncated(truncated_batch_size=-1)), "truncated_batch_size=-1"),
        (release(event=truncated(sampling_probability="0.1")), "sampling_probability="),
        (release(event=truncated(noise_multiplier={"float": "inf"})), "noise_multiplier=inf"),
    ],
    ids=lambda argument: argument[:40],  # Ledgers have a random number in them.
)
def test_malformed_json(text, named):
    with pytest.raises(ValueError, match=f"Received: .*{named}"):
        accounting.PrivacyLedger.from_json(text)


def test_json_of_the_wrong_type():
    with pytest.raises(TypeError, match="Received: text=3"):
        accounting.PrivacyLedger.from_json(3)


def edits_of(value):
    """All values that differ in one entry: another number or text, or something left out."""
    if isinstance(value, dict):
        for key in value:
            yield {k: v for k, v in value.items() if k != key}
            yield from ({**value, key: other} for other in edits_of(value[key]))
    elif isinstance(value, list):
        for i, entry in enumerate(value):
            yield value[:i] + value[i + 1 :]
            yield value[:i] + [entry] + value[i:]
            yield from (value[:i] + [other] + value[i + 1 :] for other in edits_of(entry))
    elif isinstance(value, str):
        yield value + "x"
        yield value[:-1]
    elif value is None:
        yield {"type": "NoOpDpEvent"}
    else:
        yield value + 1
        yield value / 2


def test_every_single_edit_is_refused():
    ledger = ledger_of((STEP, 100), (SCORE, 3))
    ledger.mark_not_private("seed")
    text = ledger.to_json()
    edits = list(edits_of(json.loads(text)))
    assert len(edits) > 50
    for edited in edits:
        with pytest.raises(ValueError, match="Received: "):
            accounting.PrivacyLedger.from_json(json.dumps(edited))
    for length in range(len(text)):
        with pytest.raises(ValueError, match="Received: "):
            accounting.PrivacyLedger.from_json(text[:length])


@pytest.mark.parametrize("change", [{"total": 9}, {"total": 10.0}, {"total": None}])
def test_number_of_releases_that_does_not_fit(change):
    """Also where the digest was computed anew."""
    with pytest.raises(ValueError, match="total must be 10, the sum of the counts. Received"):
        accounting.PrivacyLedger.from_json(document(**change))


def test_edited_ledger_names_the_digest():
    text = ledger_of((STEP, 1000)).to_json()
    for edited in (text.replace("1000", "10"), text.replace("1.1", "9.9")):
        with pytest.raises(ValueError, match="changed, cut or damaged .* Received: digest='"):
            accounting.PrivacyLedger.from_json(edited)


def test_layout_does_not_matter():
    ledger = ledger_of((STEP, 10))
    text = json.dumps(json.loads(ledger.to_json()), indent=2, sort_keys=True)
    assert accounting.PrivacyLedger.from_json(text) == ledger


@pytest.mark.parametrize(
    ("arguments", "options", "error", "named"),
    [
        ((3,), {}, TypeError, "event=3"),
        ((dp_accounting.UnsupportedDpEvent(),), {}, ValueError, "event=Unsupported"),
        ((FIXED(9, 10, SCORE),), {}, ValueError, "sample_size=10"),
        ((FIXED(9, 3, dp_accounting.LaplaceDpEvent(1.0)),), {}, ValueError, "event=Sampled"),
        ((FIXED(9.0, 3, SCORE),), {}, TypeError, "source_dataset_size=9.0"),
        ((TRUNCATED(9, 0.5, -1, 1.0),), {}, ValueError, "truncated_batch_size=-1"),
        ((TRUNCATED(9, 1.5, 3, 1.0),), {}, ValueError, "sampling_probability=1.5"),
        ((TRUNCATED(9, 0.5, 3, -1.0),), {}, ValueError, "noise_multiplier=-1"),
        (
            (dp_accounting.PoissonSampledDpEvent(0.1, dp_accounting.LaplaceDpEvent(1.0)),),
            {},
            ValueError,
            "event=Poisson",
        ),
        ((dp_accounting.PoissonSampledDpEvent(1.1, SCORE),), {}, ValueError, "sampling_prob"),
        ((dp_accounting.GaussianDpEvent(math.nan),), {}, ValueError, "noise_multiplier=nan"),
        ((dp_accounting.SelfComposedDpEvent(SCORE, -1),), {}, ValueError, "count=-1"),
        ((dp_accounting.ComposedDpEvent([SCORE, 3]),), {}, TypeError, "event=3"),
        ((dp_accounting.ComposedDpEvent(3),), {}, TypeError, "events=3"),
        ((dp_accounting.dp_event.RepeatAndSelectDpEvent(SCORE, 2, 1),), {}, ValueError, "event="),
        ((ZCDP(-1.0),), {}, ValueError, "rho=-1"),
        ((STEP, -1), {}, ValueError, "count=-1"),
        ((STEP, 1.0), {}, TypeError, "count=1.0"),
        ((STEP,), {"description": ""}, ValueError, "description="),
        ((STEP,), {"details": [1]}, TypeError, "details="),
        ((STEP,), {"details": {1: 2}}, TypeError, "details key=1"),
        ((STEP,), {"details": {"a": None}}, TypeError, "'a'"),
        ((STEP,), {"details": {"a": math.nan}}, ValueError, "'a'"),
        ((STEP,), {"estimate": 3}, TypeError, "estimate=3"),
        ((STEP,), {"estimate": dp_accounting.UnsupportedDpEvent()}, ValueError, "estimate=Unsu"),
        ((STEP,), {"estimate": FIXED(9, 10, SCORE)}, ValueError, "sample_size=10"),
    ],
)
def test_refused_charges_leave_the_ledger_as_it_was(arguments, options, error, named):
    ledger = ledger_of((STEP, 10))
    before = ledger.to_json()
    with pytest.raises(error, match=f"Received: .*{named}"):
        ledger.charge(*arguments, **options)
    assert ledger.to_json() == before


def test_not_private_marks_are_kept_once():
    ledger = accounting.PrivacyLedger()
    ledger.mark_not_private("fixed random seed")
    ledger.mark_not_private("fixed random seed")
    ledger.mark_not_private("another")
    assert ledger.not_private_reasons == ("fixed random seed", "another")
    assert ledger != accounting.PrivacyLedger()
    with pytest.raises(ValueError, match="Received: reason=' '"):
        ledger.mark_not_private(" ")


def test_copy_is_independent_and_ledgers_do_not_hash():
    ledger = ledger_of((STEP, 10))
    twin = ledger.copy()
    twin.charge(STEP, 5)
    twin.mark_not_private("x")
    assert ledger.releases[0].count == 10
    assert twin.releases[0].count == 15
    assert ledger.not_private_reasons == ()
    assert ledger != 3
    with pytest.raises(TypeError):
        hash(ledger)


def test_union_counts_shared_history_once():
    """Two processes go on from the same file; then one reads what the other has saved."""
    first = ledger_of((STEP, 100))
    saved = first.to_json()
    first.charge(STEP, 50)
    assert first.union(accounting.PrivacyLedger.from_json(saved)).releases[0].count == 150

    left, right = (accounting.PrivacyLedger.from_json(saved) for _ in range(2))
    left.charge(STEP, 50)
    right.charge(STEP, 80)
    right.mark_not_private("seed")
    both = left.union(accounting.PrivacyLedger.from_json(right.to_json()))
    assert sum(r.count for r in both.releases) == 230
    assert both.not_private_reasons == ("seed",)
    assert sum(r.count for r in left.releases) == 150
    both.charge(STEP, 1)
    assert sum(r.count for r in both.union(left).union(right).releases) == 231

    copied = left.copy()
    copied.charge(STEP, 7)
    left.charge(STEP, 9)
    assert sum(r.count for r in left.union(copied).releases) == 166
    with pytest.raises(TypeError, match="Received: other=3"):
        left.union(3)


@given(st.lists(charges, max_size=3), st.lists(charges, max_size=3))
@settings(max_examples=25, deadline=None)
def test_union_laws(a, b):
    left, right = random_ledger(a, ["a"]), random_ledger(b, ["b"])
    both = left.union(right)
    total = left.copy()
    for r in right.releases:
        total.charge(
            r.event,
            r.count,
            description=r.description,
            details=r.details,
            estimate=r.estimate,
        )
    assert both.releases == total.releases
    assert left.union(left) == left
    assert both.union(left) == both
    assert both.union(right) == both
    assert both.epsilon(DELTA) == pytest.approx(right.union(left).epsilon(DELTA))
    assert accounting.PrivacyLedger.from_json(both.to_json()).union(left) == both
