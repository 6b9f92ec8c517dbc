"""Tests of what the programs share."""

import subprocess
import sys

import pytest

# A module of its own: absl keeps one set of flags for a process.
PROGRAM = """
import runpy, types

from absl import flags, logging

command_line = types.SimpleNamespace(**runpy.run_path({path!r}))

def declare(values):
    flags.DEFINE_integer("size", 1, "How large.", flag_values=values)

def program(values):
    if values.size < 0:
        raise command_line.UsageError(f"--size must be positive.\\n Received: size={{values.size}}")
    logging.info("not shown")
    print("size", values.size)

command_line.run("Prints a size.", declare, program)
"""


def run(*arguments):
    from tfdp.scripts import command_line

    code = PROGRAM.format(path=command_line.__file__)
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60
    )


def test_flags_reach_the_program():
    done = run("--size=3")
    assert (done.returncode, done.stdout, done.stderr) == (0, "size 3\n", "")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--size=-1", "--size must be positive. Received: size=-1"),
        ("--size=big", "flag --size=big"),
        ("--sise=1", "Unknown command line flag 'sise'"),
        ("size", "Only flags are understood. Received: size"),
    ],
)
def test_a_usage_error_is_one_line_and_status_2(argument, message):
    done = run(argument)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert message in line


def test_help_shows_the_program_and_its_flags_alone():
    done = run("--help")
    assert done.returncode == 0
    assert done.stdout.startswith("Prints a size.")
    assert "--size" in done.stdout
    assert "--verbosity" not in done.stdout


def test_logging_is_turned_up_by_the_flag_of_absl():
    assert "not shown" in run("--verbosity=0").stderr
