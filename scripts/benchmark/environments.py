"""Prepares one virtual environment for each peer library, under `.peers/` of the checkout.

The peers cannot share an environment with tfdp: tensorflow-privacy 0.9.0 needs TensorFlow 2.15 and
Python 3.11 or older. Each environment is built from a pinned file of `requirements/`; one that is
up to date is left as it is, so the command can be repeated at no cost.

Example:

    python scripts/benchmark/environments.py            # all of them
    python scripts/benchmark/environments.py opacus     # one of them
"""

import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

from absl import app, logging

PYTHON = (3, 11)
CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
PEERS = CHECKOUT / ".peers"
REQUIREMENTS = pathlib.Path(__file__).resolve().parent / "requirements"
NAMES = tuple(sorted(path.stem for path in REQUIREMENTS.glob("*.txt")))


class EnvironmentUnavailable(RuntimeError):
    """A peer's environment cannot be prepared on this machine."""


def _version(interpreter: str) -> tuple[int, int] | None:
    """The (major, minor) version of `interpreter`, or `None` if it does not run."""
    code = "import sys; print(*sys.version_info[:2])"
    try:
        answer = subprocess.run(
            [interpreter, "-c", code], capture_output=True, text=True, check=False
        )
    except OSError:
        return None
    if answer.returncode:
        return None
    major, minor = answer.stdout.split()
    return int(major), int(minor)


def find_interpreter() -> str:
    """A Python 3.11 interpreter: this one, `python3.11` on the path, or one installed by pyenv."""
    name = "python{}.{}".format(*PYTHON)
    pyenv = pathlib.Path(os.environ.get("PYENV_ROOT", pathlib.Path.home() / ".pyenv"))
    candidates = [sys.executable, shutil.which(name)]
    candidates += sorted(map(str, pyenv.glob(f"versions/*/bin/{name}")), reverse=True)
    for candidate in filter(None, candidates):
        if _version(candidate) == PYTHON:
            return candidate
    raise EnvironmentUnavailable(
        f"No {name} was found (tried this interpreter, the path, and {pyenv}). tensorflow-privacy "
        f"does not install on a later Python. Install one, for example by `pyenv install 3.11`."
    )


def interpreter_of(name: str) -> pathlib.Path:
    """The path of the interpreter of the environment called `name`, whether it exists or not."""
    return PEERS / name / "bin" / "python"


def prepare(name: str) -> pathlib.Path:
    """Builds the environment called `name` unless it is up to date; returns its interpreter."""
    if name not in NAMES:
        raise ValueError(f"`name` must be one of {NAMES}. Received: name={name!r}")
    PEERS.mkdir(exist_ok=True)
    (PEERS / ".gitignore").write_text("*\n")
    with open(PEERS / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two commands at once must not build the same folder
        _build(name)
    return interpreter_of(name)


def _build(name: str) -> None:
    """Builds the environment called `name` unless its stamp says that it is up to date."""
    requirements = REQUIREMENTS / f"{name}.txt"
    digest = hashlib.sha256(requirements.read_bytes()).hexdigest()
    folder = PEERS / name
    stamp = folder / "requirements.sha256"
    if stamp.exists() and stamp.read_text() == digest:
        return
    base = find_interpreter()
    logging.info("Preparing %s with %s", folder, base)
    subprocess.run([base, "-m", "venv", "--clear", str(folder)], check=True)
    install = [str(interpreter_of(name)), "-m", "pip", "install", "--quiet"]
    try:
        subprocess.run([*install, "--requirement", str(requirements)], check=True)
    except subprocess.CalledProcessError as error:
        raise EnvironmentUnavailable(f"pip could not install {requirements}.") from error
    stamp.write_text(digest)


def main(argv: list[str]) -> None:
    """Prepares the environments named on the command line, or all."""
    for name in argv[1:] or NAMES:
        print(f"{name}: {prepare(name)}")


if __name__ == "__main__":
    app.run(main)
