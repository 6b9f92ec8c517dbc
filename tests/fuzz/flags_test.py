"""Hostile values of flags are refused in one line, before any work."""

import time
import warnings

import crashing_training
import pytest
from absl import flags
from fuzzing import fuzzed
from hypothesis import example, given
from hypothesis import strategies as st

import tfdp
from tfdp.scripts import (
    account,
    audit,
    image_datasets,
    plan,
    simulate,
    synthesis_stages,
    synthesize,
    train,
    train_settings,
)
from tfdp.scripts.command_line import UsageError

SECONDS = 60  # Of processor time.


class WorkError(Exception):
    """In place of the work."""


def work(*_, **__):
    raise WorkError


@pytest.fixture(autouse=True, scope="module")
def no_work(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("flags"))
        patch.setattr(image_datasets, "load", crashing_training.tiny_data)
        patch.setattr(train, "private_model", work)
        patch.setattr(synthesize, "_run", work)
        patch.setattr(tfdp.simulation, "search", work)
        patch.setattr(tfdp.tan.Plan, "draw", lambda plan, path: open(path, "w").close())
        patch.setattr(synthesis_stages.keras.models, "load_model", work)
        yield


NUMBERS = st.one_of(
    st.sampled_from(
        "0 -0 -1 1 2 0.5 nan inf -inf 1e308 -1e308 1e-308 5e-324 1e400 2147483648 4294967296 "
        "9223372036854775807 9223372036854775808 1000000000000000000000000000000 0x10 1_0".split()
    ),
    st.integers(-(10**12), 10**12).map(str),
    st.floats(-10, 10).map(lambda x: repr(10.0**x)),
    st.floats(0, 1).map(repr),
)
TEXTS = st.one_of(
    st.sampled_from(["", " ", "\n", "x" * 1000, "../..", "/dev/null", "%s%n", "ü", "a=1..2", "="]),
    st.sampled_from(["learning_rate=1,nan", "learning_rate=nan..inf", "learning_rate=1e308..1"]),
    st.sampled_from(["tempered_sigmoid(1,2)", "tempered_sigmoid(nan,inf,1e308)", "relu", "none"]),
    st.text(max_size=10).filter(lambda text: "\0" not in text),
)
# What would be loaded from elsewhere, or is not ours.
LEFT_OUT = {"flagfile", "undefok", "download", "strategy", "tpu", "dry_run", "only_check_args"}


@st.composite
def arguments(draw, declare, valid):
    """Valid flags, of which up to three are set to something else."""
    values = flags.FlagValues()
    declare(values)
    names = sorted(set(values) - LEFT_OUT)
    chosen = dict(valid)
    for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=3)):
        kind = values[name].flag_type()
        if kind == "bool":
            chosen[name] = draw(st.sampled_from(["true", "false", "maybe"]))
        elif kind in ("int", "float"):
            chosen[name] = draw(NUMBERS)
        elif "enum" in kind and draw(st.booleans()):
            chosen[name] = draw(st.sampled_from(values[name].parser.enum_values))
        else:
            chosen[name] = draw(st.one_of(TEXTS, NUMBERS))
    return [f"--{name}={value}" for name, value in chosen.items()]


def refused_or(program, declare, given_flags):
    """Runs a program up to its work; a refusal says what was received."""
    values = flags.FlagValues()
    declare(values)
    started = time.process_time()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "delta = ", UserWarning)
            values(["program", *given_flags])
            program(values)
    except (WorkError, flags.Error):
        pass
    except UsageError as error:
        assert "eceived" in str(error) or "--" in str(error), error
    assert time.process_time() - started < SECONDS, given_flags


ACCOUNT = {
    **{"noise_multiplier": "1.1", "batch_size": "100", "num_examples": "10000"},
    **{"epochs": "3", "delta": "1e-5"},
}


@fuzzed(60)
@given(arguments(account.define_flags, ACCOUNT))
def test_account(given_flags):
    refused_or(account.answer, account.define_flags, given_flags)


CALIBRATED = {k: v for k, v in ACCOUNT.items() if k != "noise_multiplier"} | {"target_epsilon": "2"}


@fuzzed(40)
@given(arguments(account.define_flags, CALIBRATED))
def test_account_calibrates(given_flags):
    refused_or(account.answer, account.define_flags, given_flags)


PLAN = {"target_epsilon": "3", "delta": "1e-5", "num_examples": "6000"}


@fuzzed(8)
@given(arguments(plan.declare_flags, PLAN))
def test_plan(given_flags):
    refused_or(plan.plan, plan.declare_flags, given_flags)


TRAIN = {"batch_size": "16", "delta": "1e-3", "epochs": "2", "noise_multiplier": "1"}


@fuzzed(60)
@given(arguments(train_settings.declare_flags, TRAIN))
@example(["--delta=1e-3", "--noise_multiplier=1", "--physical_batch_size=4294967296"])
def test_train(given_flags):
    refused_or(train.train, train_settings.declare_flags, [*given_flags, "--output_dir=run"])


SIMULATE = {"search": "learning_rate=1,2", "simulate_at": "8", "delta": "1e-3"}


@fuzzed(40)
@given(arguments(simulate.declare_flags, SIMULATE))
def test_simulate(given_flags):
    refused_or(simulate.simulate, simulate.declare_flags, [*given_flags, "--output_dir=search"])


@fuzzed(25)
@given(arguments(audit.declare_flags, {"from_training": "nowhere"}))
def test_audit(given_flags):
    refused_or(audit.audit, audit.declare_flags, given_flags)


SYNTHESIZE = {"public": "mnist", "sensitive": "digits", "output_dir": "made", "delta": "1e-3"}


@fuzzed(25)
@given(arguments(synthesize.declare_flags, SYNTHESIZE))
def test_synthesize(given_flags):
    refused_or(synthesize.synthesize, synthesize.declare_flags, given_flags)
