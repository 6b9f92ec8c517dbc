"""Hostile variants of valid files, for the tests in `fuzz/`.

They start from what is valid, so that they get past the parsers. `TFDP_FUZZ_EXAMPLES` says how many
variants each test tries: some dozens by default.
"""

import copy
import json
import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

EXAMPLES = os.environ.get("TFDP_FUZZ_EXAMPLES")
HUGE = 10**30


def fuzzed(default: int):
    """Settings of a test that tries `default` variants unless told how many."""
    return settings(
        max_examples=int(EXAMPLES or default),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def _deep(depth: int):
    value = []
    for _ in range(depth):
        value = [value]
    return value


HOSTILE = (
    *(None, True, False, 0, 1, -1, 2**63, -HUGE, HUGE, 0.5, -0.0, 1e308, 1e-308),
    *(float("nan"), float("inf"), -float("inf"), "", " ", "\u0000", "\ud800", "é\u202e", "1", "x"),
    *([], [[]], {}, {"": {}}, [None], [1, "x"], {"class_name": "Lambda"}, "../../etc/passwd"),
    *("__import__('os').abort()", "x" * 10_000, _deep(50), {"float": "inf"}, {"float": "nan"}),
)


def _places(value, path=()):
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in entries:
        if isinstance(inner, dict | list):
            yield from _places(inner, (*path, key))
        else:
            yield (*path, key)


@st.composite
def changed(draw, document, *, hostile=HOSTILE):
    """A document of JSON with up to three entries changed, dropped, doubled, renamed or swapped."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        places = [path for path in _places(document) if path]
        if not places:
            return document
        *path, key = draw(st.sampled_from(places))
        parent = document
        for step in path:
            parent = parent[step]
        what = draw(st.sampled_from(["set", "set", "number", "drop", "double", "swap"]))
        value = parent[key]
        if what == "drop":
            del parent[key]
        elif what == "double" and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(value))
        elif what == "double":
            parent[draw(st.text(max_size=5))] = copy.deepcopy(value)
        elif what == "number" and type(value) in (int, float):
            parent[key] = draw(st.one_of(st.integers(-1000, 1000), st.floats(-1e3, 1e3)))
        elif what == "swap":
            source = document
            for step in draw(st.sampled_from(places)):
                source = source[step]
            parent[key] = copy.deepcopy(source)
        else:
            parent[key] = copy.deepcopy(draw(st.sampled_from(hostile)))
    return document


@st.composite
def damaged(draw, content: bytes):
    """Bytes that were cut, flipped, put in, taken out, zeroed or doubled in up to three places."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, max(0, len(content) - 1)))
        size = draw(st.integers(1, 64))
        what = draw(st.sampled_from(["cut", "flip", "insert", "remove", "zero", "double"]))
        if what == "cut":
            del content[start:]
        elif what == "flip" and content:
            content[start] ^= draw(st.integers(1, 255))
        elif what == "insert":
            content[start:start] = draw(st.binary(min_size=1, max_size=16))
        elif what == "remove":
            del content[start : start + size]
        elif what == "zero":
            content[start : start + size] = bytes(len(content[start : start + size]))
        else:
            content[start:start] = content[start : start + size]
    return bytes(content)


def texts(document):
    """Texts of JSON: of changed documents, and damaged ones."""
    text = json.dumps(document)
    return st.one_of(
        changed(document).map(json.dumps),
        damaged(text.encode()).map(lambda content: content.decode(errors="surrogateescape")),
    )
