"""Where the console commands begin: `tfdp-train` runs `train.py`, and so on, and starts quietly.

TensorFlow writes about its own build and missing GPUs before it reads any setting. To keep these
lines back something must stand between before it is imported, so this module is installed outside
the package `tfdp`, whose import imports it.
"""

import contextlib
import importlib
import os
import pathlib
import sys
from collections.abc import Iterator

_NOISE = (
    b"before absl::InitializeLog()",
    b"cudart_stub.cc",
    b"failed call to cuInit",
    b"cuda_platform.cc",
    b"oneDNN custom operations are on",
    b"when one has already been registered",
)


def main() -> None:
    """Runs the program that the command is called after."""
    program = pathlib.Path(sys.argv[0]).stem.removeprefix("tfdp-")
    with _without_start_up_noise():
        import tensorflow

        module = importlib.import_module(f"tfdp.scripts.{program}")
        tensorflow.config.list_physical_devices()  # It would look for GPUs later, and write then.
    try:
        module.main()
    except BrokenPipeError:  # Whoever read the output has had enough, as `head` has.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # It is flushed at exit.
        sys.exit(1)


@contextlib.contextmanager
def _without_start_up_noise() -> Iterator[None]:
    """Leaves out those lines of standard error; all others pass, also those before a crash."""
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ or not hasattr(os, "fork"):
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"  # warnings and errors
    sys.stderr.flush()
    readable, writable = os.pipe()
    reader = os.fork()
    if not reader:  # A process of its own, as it must outlive a crash of the import.
        os.close(writable)
        with open(readable, "rb") as lines:
            for line in lines:
                if not any(part in line for part in _NOISE):
                    os.write(2, line)
        os._exit(0)
    os.close(readable)
    errors = os.dup(2)
    os.dup2(writable, 2)
    os.close(writable)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(errors, 2)
        os.close(errors)
        os.waitpid(reader, 0)
