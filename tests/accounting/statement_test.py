"""Tests of the written statement."""

import dataclasses
import json
import math
import pathlib
import subprocess
import sys

import dp_accounting
import pytest

from tfdp import accounting
from tfdp.accounting import statement as statement_module

DELTA = 1e-5
DETAILS = {
    "sampling": "Poisson",
    "l2_norm_clip": 0.1,
    "expected_batch_size": 512,
    "num_examples": 60_000,
}


def trained(**details) -> accounting.PrivacyLedger:
    ledger = accounting.PrivacyLedger()
    ledger.charge(accounting.dp_sgd_event(1.23, 512 / 60_000), 4688, details={**DETAILS, **details})
    return ledger


def test_text_says_what_a_reader_needs():
    text = str(trained(note="an estimate").statement(DELTA))
    assert text.startswith("Privacy statement\n")
    for words in (
        "(epsilon = 2.37, delta = 1e-05)-differentially private",
        "(RDP):  2.59",
        "(PLD):  2.37",
        "one training example",
        "add or remove one example",
        "DP-SGD step",
        "4,688",
        "sampling as it ran:          Poisson",
        "0.00853333",
        "noise multiplier:            1.23",
        "clip norm (L2, per example): 0.1",
        "expected batch size:         512",
        "60,000",
        "an estimate",
        "search for hyper-parameters",
        "metrics computed on the training data",
        "choice of the data set",
        "dp-accounting",
    ):
        assert words in text, words
    assert "Warnings" not in text
    assert "NOT PRIVATE" not in text
    assert max(map(len, text.splitlines())) <= 88


def test_numbers_are_those_of_the_ledger_and_rounded_up():
    ledger = trained()
    statement = ledger.statement(DELTA)
    assert statement.epsilon_rdp == ledger.epsilon(DELTA)
    assert statement.epsilon_pld == ledger.epsilon(DELTA, "pld")
    assert statement.epsilon == min(statement.epsilon_rdp, statement.epsilon_pld)
    assert statement.is_private


@pytest.mark.parametrize(
    ("epsilon", "text"),
    [
        (0.0, "0"),
        (2.001, "2.01"),
        (2.0, "2"),
        (0.0012341, "0.00124"),
        (123.4501, "123.46"),
        (math.inf, "inf"),
    ],
)
def test_epsilon_is_written_rounded_up(epsilon, text):
    assert statement_module._up(epsilon) == text


def test_tiny_delta_is_reported_by_rdp():
    statement = trained().statement(1e-12)
    assert statement.epsilon == statement.epsilon_rdp > statement.epsilon_pld


def test_dictionary_and_json():
    statement = trained(extra=math.inf).statement(DELTA)
    data = json.loads(statement.to_json())
    assert data == statement.to_dict()
    assert data["delta"] == DELTA
    assert data["is_private"] is True
    assert data["releases"][0]["steps"] == 4688
    assert data["releases"][0]["noise_multiplier"] == 1.23
    assert data["releases"][0]["details"]["l2_norm_clip"] == 0.1
    assert data["releases"][0]["details"]["extra"] == "inf"
    assert data["versions"]["dp-accounting"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        statement.delta = 1.0


def test_warns_of_a_large_delta():
    text = str(trained().statement(1e-4))
    assert "delta = 0.0001 is larger than one over the number of examples" in text
    assert trained().statement(1 / 60_000).warnings == ()


@pytest.mark.parametrize("sampling", ["shuffled", "declared: shuffle"])
def test_warns_of_sampling_that_is_not_what_is_accounted(sampling):
    (warning,) = trained(sampling=sampling).statement(DELTA).warnings
    assert repr(sampling) in warning
    assert "not a proven bound" in warning


def test_fixed_size_batches():
    ledger = accounting.PrivacyLedger()
    event = accounting.fixed_size_dp_sgd_event(4.0, 512, 60_000)
    ledger.charge(event, 1000, details={**DETAILS, "sampling": "fixed size, drawn afresh"})
    ledger.charge(event, 1000)
    statement = ledger.statement(DELTA)
    assert statement.warnings == ()
    assert statement.relation == statement_module.EMPTY_RELATION
    assert statement.epsilon == ledger.epsilon(DELTA, "pld")
    told, untold = statement.releases
    assert told.sampling == "fixed size, drawn afresh"
    assert "512 of 60,000 examples" in untold.sampling
    assert untold.sampling_probability == 512 / 60_000
    assert untold.noise_multiplier == 4.0
    assert "Gaussian noise on a sum" in untold.mechanism


def test_batches_cut_to_a_capacity():
    ledger = accounting.PrivacyLedger()
    ledger.charge(accounting.truncated_dp_sgd_event(1.23, 512 / 60_000, 60_000, 700), 4688)
    statement = ledger.statement(DELTA)
    assert statement.relation == statement_module.RELATION
    assert statement.epsilon == pytest.approx(trained().statement(DELTA).epsilon, rel=1e-4)
    (release,) = statement.releases
    assert "of more than 700, a random subset" in release.sampling
    assert (release.sampling_probability, release.noise_multiplier) == (512 / 60_000, 1.23)


def test_neighbours_in_the_words_of_the_releases():
    ledger = trained(neighbours="replace one example by an empty one")
    ledger.charge(accounting.dp_sgd_event(1.23, 1.0), details={"neighbours": "exchange one"})
    ledger.charge(accounting.fixed_size_dp_sgd_event(1.23, 1, 9))
    statement = ledger.statement(DELTA)
    assert statement.relation == "replace one example by an empty one; exchange one"
    assert f"Neighbouring data sets: {statement.relation}." in str(statement)
    assert not any("neighbours" in release.details for release in statement.releases)


def shuffled(description: str = "DP-SGD training") -> accounting.PrivacyLedger:
    ledger = accounting.PrivacyLedger()
    ledger.charge(
        accounting.dp_sgd_event(4.0, 1.0),
        10,
        description=description,
        details={"sampling": "shuffled once an epoch"},
        estimate=dp_accounting.SelfComposedDpEvent(accounting.dp_sgd_event(4.0, 0.01), 100),
    )
    return ledger


def test_an_estimate_is_told_apart_from_the_bound():
    ledger = shuffled()
    ledger.charge(dp_accounting.GaussianDpEvent(30.0), description="score")
    statement = ledger.statement(DELTA)
    assert statement.warnings == ()
    assert statement.epsilon_rdp == ledger.epsilon(DELTA)
    as_if = accounting.PrivacyLedger()
    as_if.charge(accounting.dp_sgd_event(4.0, 0.01), 1000)
    as_if.charge(dp_accounting.GaussianDpEvent(30.0))
    assert statement.epsilon_estimate == as_if.epsilon(DELTA) < statement.epsilon / 5
    text = " ".join(str(statement).split())
    assert (
        "Had the batches of 'DP-SGD training' been Poisson samples, epsilon would be "
        f"{statement_module._up(statement.epsilon_estimate)} (RDP). That is an estimate for "
        "comparison, not a bound for what ran."
    ) in text
    assert statement.to_dict()["epsilon_estimate"] == statement.epsilon_estimate
    assert trained().statement(DELTA).epsilon_estimate is None

    both = ledger.union(shuffled("fine-tuning"))
    assert "batches of 'DP-SGD training' and 'fine-tuning' been" in str(both.statement(DELTA))
    ledger.mark_not_private("fixed random seed")
    assert ledger.statement(DELTA).epsilon_estimate is None


def test_equal_releases_with_and_without_an_estimate_stay_apart():
    ledger = shuffled()
    (release,) = ledger.releases
    ledger.charge(release.event, 10, description=release.description, details=dict(release.details))
    statement = ledger.statement(DELTA)
    assert [r.steps for r in statement.releases] == [10, 10]
    assert statement.epsilon_estimate > shuffled().statement(DELTA).epsilon_estimate


def test_zcdp_as_a_check_where_nothing_is_sampled():
    ledger = accounting.PrivacyLedger()
    ledger.charge(dp_accounting.GaussianDpEvent(4.0), 8)
    ledger.charge(dp_accounting.GaussianDpEvent(2.0), 2)
    statement = ledger.statement(DELTA)
    assert statement.epsilon_zcdp == pytest.approx(accounting.zcdp_epsilon(0.5, DELTA))
    assert statement.epsilon_pld < statement.epsilon_rdp < statement.epsilon_zcdp
    assert "Check by the zCDP formula, always looser:  5.3" in str(statement)
    assert trained().statement(DELTA).epsilon_zcdp is None


def test_full_batches_need_no_sampling_warning():
    ledger = accounting.PrivacyLedger()
    ledger.charge(accounting.dp_sgd_event(5.0, 1.0), 10, details={"sampling": "full batch"})
    statement = ledger.statement(DELTA)
    assert statement.warnings == ()
    assert statement.releases[0].sampling_probability == 1.0


def test_mark_comes_first_and_no_epsilon_is_claimed():
    ledger = trained()
    ledger.mark_not_private("fixed random seed")
    statement = ledger.statement(DELTA)
    assert str(statement).startswith("NOT PRIVATE: fixed random seed\n")
    assert "2.59" not in str(statement)
    assert not statement.is_private
    assert statement.epsilon == math.inf
    assert json.loads(statement.to_json())["epsilon"] == "inf"


def test_release_without_noise_is_not_private():
    ledger = trained()
    ledger.charge(dp_accounting.NonPrivateDpEvent(), description="raw mean")
    text = str(ledger.statement(DELTA))
    assert text.startswith("NOT PRIVATE: 'raw mean' was released without noise")
    assert "no noise" in text


def test_equal_releases_are_joined_in_the_text():
    ledger = accounting.PrivacyLedger()
    for _ in range(5):
        ledger.charge(accounting.dp_sgd_event(2.0, 0.1), description="trial")
        ledger.charge(dp_accounting.GaussianDpEvent(30.0), description="score")
    assert len(ledger.releases) == 10
    statement = ledger.statement(DELTA)
    assert [(r.description, r.steps) for r in statement.releases] == [("trial", 5), ("score", 5)]


def test_epsilon_by_pld_may_be_missing():
    ledger = accounting.PrivacyLedger()
    ledger.charge(dp_accounting.dp_event.ZCDpEvent(0.01), description="selection")
    statement = ledger.statement(DELTA)
    assert statement.epsilon_pld is None
    assert statement.epsilon == statement.epsilon_rdp
    assert "(PLD):  not available" in str(statement)


def test_mechanisms_without_noise_multiplier_are_named():
    ledger = accounting.PrivacyLedger()
    ledger.charge(dp_accounting.LaplaceDpEvent(4.0), description="count")
    ledger.charge(
        dp_accounting.ComposedDpEvent(
            [dp_accounting.GaussianDpEvent(3.0), dp_accounting.GaussianDpEvent(4.0)]
        ),
        description="pair",
    )
    text = str(ledger.statement(DELTA))
    assert "Laplace noise" in text
    assert "ComposedDpEvent" in text


def test_empty_ledger():
    text = str(accounting.PrivacyLedger().statement(DELTA))
    assert "Nothing computed from the training data has been charged" in text


def test_bad_delta():
    with pytest.raises(ValueError, match="Received: delta=0"):
        trained().statement(0)


def test_accounting_itself_imports_no_tensorflow():
    """Checked without `tfdp/__init__.py`, which brings in the rooms that need TensorFlow."""
    code = (
        "import sys, types\n"
        "tfdp = sys.modules['tfdp'] = types.ModuleType('tfdp')\n"
        "tfdp.__path__ = [sys.argv[1]]\n"
        "import tfdp.accounting\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
    )
    folder = pathlib.Path(accounting.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, timeout=300)
