"""Tests of the console commands, as they are installed."""

import importlib.metadata
import importlib.util
import os
import pathlib
import subprocess
import sys

import pytest

COMMANDS = importlib.metadata.entry_points(group="console_scripts").select(
    value="tfdp_console:main"
)
AS_A_USER = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is left out without fork")


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, env=AS_A_USER, timeout=120)


def test_each_command_is_called_after_a_program():
    assert {command.name for command in COMMANDS} >= {"tfdp-train", "tfdp-account"}
    for command in COMMANDS:
        program = command.name.removeprefix("tfdp-")
        assert importlib.util.find_spec(f"tfdp.scripts.{program}") is not None, command


@posix
def test_a_command_shows_what_it_has_to_say_alone():
    path = pathlib.Path(sys.executable).with_name("tfdp-account")
    done = run(
        path, "--noise_multiplier=1", "--sampling_probability=0.1", "--steps=9", "--nonsense=1"
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "tfdp-account: Unknown command line flag 'nonsense'\n"


@posix
def test_a_reader_who_stops_reading_gets_no_traceback():
    path = pathlib.Path(sys.executable).with_name("tfdp-account")
    asked = [
        path,
        "--noise_multiplier=1",
        "--sampling_probability=0.1",
        "--steps=9",
        "--delta=1e-5",
    ]
    readable, writable = os.pipe()
    os.close(readable)
    with open(writable, "wb") as nobody:
        done = subprocess.run(
            [*asked, "--delta=1e-5"], stdout=nobody, stderr=subprocess.PIPE, env=AS_A_USER
        )
    assert (done.returncode, done.stderr) == (1, b"")


@posix
@pytest.mark.parametrize(
    ("end", "status"), [("pass", 0), ("raise SystemExit(3)", 3), ("os.abort()", -6)]
)
def test_only_known_lines_are_left_out(end, status):
    code = f"""
import os, tfdp_console
with tfdp_console._without_start_up_noise():
    os.write(2, b"first\\nI0000 cudart_stub.cc:31] Could not find cuda drivers\\nsecond\\n")
    {end}
"""
    done = run(sys.executable, "-c", code)
    assert (done.returncode, done.stderr) == (status, "first\nsecond\n")


def test_nothing_is_left_out_where_a_log_level_was_chosen():
    code = """
import os, tfdp_console
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"
with tfdp_console._without_start_up_noise():
    os.write(2, b"I0000 cudart_stub.cc:31] Could not find cuda drivers\\n")
"""
    assert "cudart_stub" in run(sys.executable, "-c", code).stderr
