"""No text makes a ledger that was not written as such, and every refusal is a clear ValueError."""

import json

import dp_accounting
from fuzzing import changed, fuzzed, texts
from hypothesis import given

import tfdp
from tfdp import accounting
from tfdp.accounting import serialization


def _ledger():
    ledger = accounting.PrivacyLedger()
    step = accounting.dp_sgd_event(1.1, 0.01)
    ledger.charge(step, 1000, details={"l2_norm_clip": float("inf"), "num_examples": 60_000})
    ledger.charge(accounting.fixed_size_dp_sgd_event(4.0, 5, 50), 7, estimate=step)
    ledger.charge(accounting.truncated_dp_sgd_event(1.0, 0.1, 20, 100), 3, description="cut")
    ledger.charge(dp_accounting.ComposedDpEvent([dp_accounting.LaplaceDpEvent(3.0), step]))
    ledger.charge(dp_accounting.dp_event.ZCDpEvent(0.1, 0.0))
    ledger.mark_not_private("fixed seed")
    return ledger


LEDGER = _ledger()
DOCUMENT = json.loads(LEDGER.to_json())
TEXT = json.dumps(DOCUMENT, sort_keys=True)


def _read(text):
    try:
        return accounting.PrivacyLedger.from_json(text)
    except ValueError as error:
        assert "`text`" in str(error) or "Received: " in str(error), error
        assert len(str(error)) < 25_000
        return None


@fuzzed(300)
@given(texts(DOCUMENT))
def test_changed_ledgers(text):
    """One that is read says what the one that was written said."""
    found = _read(text)
    if found is not None:
        assert found == LEDGER


@fuzzed(200)
@given(changed(DOCUMENT))
def test_changed_ledgers_with_a_new_digest(document):
    """Where somebody computed the digest anew, what is read is still a ledger that works."""
    try:
        text = json.dumps({**document, "digest": serialization.digest(document)})
    except TypeError:
        return
    found = _read(text)
    if found is not None:
        assert found.epsilon(1e-5) >= 0.0
        assert accounting.PrivacyLedger.from_json(found.to_json()) == found
        assert str(found.statement(1e-5))


SELECTION = {
    **{"format": "tfdp selection", "version": 1, "layers": ["a"], "names": ["a"]},
    **{"candidates": ["a", "b"], "scores": {"a": 1.0, "b": 0.5}, "fraction": 0.5},
    **{"mechanism": "gaussian", "l2_norm_clip": 1.0, "not_private_reasons": []},
    "event": {"type": "GaussianDpEvent", "noise_multiplier": 3.0},
}


@fuzzed(200)
@given(texts(SELECTION))
def test_changed_selections(text):
    try:
        found = tfdp.saliency.Selection.from_json(text)
    except ValueError as error:
        assert "Received: text=" in str(error)
    else:
        assert tfdp.saliency.Selection.from_json(found.to_json()) == found
        found.charge(accounting.PrivacyLedger())
