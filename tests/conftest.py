"""Fixtures for all tests."""

import os
import pathlib
import random
import secrets
import zlib

import hypothesis
import keras
import pytest

# The same shapes in every run: a failure in one is a failure in all.
hypothesis.settings.register_profile("tfdp", deadline=None, derandomize=True)
hypothesis.settings.load_profile("tfdp")


@pytest.fixture(autouse=True)
def same_randomness(request, monkeypatch):
    """Every test draws the same weights and, for noise and samples, the same "secret" bits."""
    seed = zlib.crc32(request.node.nodeid.encode())
    keras.utils.set_random_seed(seed)
    bits = random.Random(seed)
    monkeypatch.setattr(secrets, "randbits", bits.getrandbits)
    monkeypatch.setattr(secrets, "token_bytes", bits.randbytes)


DATA_DIR_VARIABLE = "TFDP_DATA_DIR"


@pytest.fixture
def data_dir() -> pathlib.Path:
    """The folder of prepared data sets; the test is skipped where there is none."""
    folder = os.environ.get(DATA_DIR_VARIABLE)
    if not folder:
        pytest.skip(f"needs prepared data sets: set {DATA_DIR_VARIABLE} to their folder")
    return pathlib.Path(folder)


@pytest.fixture
def prepared(data_dir):
    """A function of a data set's name: skips the test unless that set is prepared."""

    def require(name: str) -> pathlib.Path:
        if not (data_dir / name).is_dir():
            pytest.skip(f"needs the data set {name!r}, which {DATA_DIR_VARIABLE} does not hold")
        return data_dir

    return require


@pytest.fixture
def mixed_precision():
    """Sets the global dtype policy to mixed precision for one test."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)
