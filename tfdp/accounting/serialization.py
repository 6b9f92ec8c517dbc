"""The ledger as JSON: read by people, checked on the way in, never executed.

```json
{"format": "tfdp privacy ledger", "version": 3,
 "releases": [{"event": {"type": "PoissonSampledDpEvent", "sampling_probability": 0.01,
                         "event": {"type": "GaussianDpEvent", "noise_multiplier": 1.1}},
               "count": 1000, "description": "DP-SGD step", "details": {"l2_norm_clip": 1.0},
               "origin": "5f0c...", "estimate": null}],
 "not_private_reasons": [], "total": 1000, "digest": "3c0f..."}
```

Infinite numbers, which JSON lacks, are written `{"float": "inf"}`. `estimate` is an event or null.
`total` is the sum of the counts, and `digest` the SHA-256 of all the rest, so that a text that was
cut, damaged or edited is refused. There is no key in it: who computes it anew is not noticed.
Earlier versions had no digest and are not read, as they would be a way around it; later ones get a
higher number. This reader refuses what it does not know rather than guess.
"""

import hashlib
import json
import math
from collections.abc import Iterable
from typing import Any

import dp_accounting

from tfdp.accounting import events
from tfdp.accounting.release import Release

FORMAT = "tfdp privacy ledger"
VERSION = 3

_KEYS = {"format", "version", "releases", "not_private_reasons", "total", "digest"}
_TYPES = {kind.__name__: kind for kind in events.EVENT_FIELDS}
_INFINITIES = {"inf": math.inf, "-inf": -math.inf}


def dump(entries: Iterable[tuple[str, Release]], not_private_reasons: Iterable[str]) -> str:
    """Writes a ledger.

    Args:
        entries: what was charged, in order, each with its origin.
        not_private_reasons: why there is no guarantee, if so.

    Returns:
        JSON text.
    """
    entries = list(entries)
    document = {
        "format": FORMAT,
        "version": VERSION,
        "releases": [
            {
                "event": event_to_dict(release.event),
                "count": release.count,
                "description": release.description,
                "details": {key: _number(value) for key, value in release.details.items()},
                "origin": origin,
                "estimate": None if release.estimate is None else event_to_dict(release.estimate),
            }
            for origin, release in entries
        ],
        "not_private_reasons": list(not_private_reasons),
        "total": sum(release.count for _, release in entries),
    }
    return json.dumps({**document, "digest": digest(document)}, allow_nan=False)


def load(text: str) -> tuple[list[tuple[str, Release]], list[str]]:
    """Reads a ledger. The caller checks the events, counts and details.

    Args:
        text: JSON text that `dump` has written.

    Returns:
        The releases with their origins, and the reasons why there is no guarantee.

    Raises:
        TypeError: if the argument is not a string.
        ValueError: if the text is not such a ledger, of another version, or not as it was written:
            the digest or the total does not fit.
    """
    if not isinstance(text, str):
        raise TypeError(f"`text` must be a string. Received: text={text!r}")
    try:
        document = json.loads(text, parse_constant=_refuse_constant)
        found = digest(document)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"`text` must be the JSON of a privacy ledger ({error}). Received: text={_short(text)}"
        ) from None
    _expect(isinstance(document, dict), "a JSON object", "text", document)
    if document.get("format") != FORMAT:
        raise _error(f"marked {FORMAT!r}", "format", document.get("format"))
    version = document.get("version")
    if type(version) is not int or version != VERSION:
        raise _error(f"{VERSION}, the version known here", "version", version)
    _expect_keys(document, _KEYS, "ledger")
    if document["digest"] != found:
        raise _error(
            f"{found!r}, that of what is in it: it was changed, cut or damaged after it was "
            "written, and may lack what was spent",
            "digest",
            document["digest"],
        )
    _expect(isinstance(document["releases"], list), "a list", "releases", document["releases"])
    reasons = document["not_private_reasons"]
    _expect(
        isinstance(reasons, list) and all(isinstance(reason, str) for reason in reasons),
        "a list of strings",
        "not_private_reasons",
        reasons,
    )
    entries = [_release(entry) for entry in document["releases"]]
    total = sum(release.count for _, release in entries)
    if type(document["total"]) is not int or document["total"] != total:
        raise _error(f"{total}, the sum of the counts", "total", document["total"])
    return entries, reasons


def digest(document: Any) -> str:
    """Returns the SHA-256 of a ledger's JSON, however it is laid out.

    Args:
        document: the JSON as Python holds it, with its digest or without.

    Returns:
        64 hexadecimal digits.
    """
    if isinstance(document, dict):
        document = {key: value for key, value in document.items() if key != "digest"}
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def event_to_dict(event: dp_accounting.DpEvent) -> dict[str, Any]:
    """Describes an event by its type and fields.

    Args:
        event: an event that `tfdp.accounting` supports.

    Returns:
        A dictionary that JSON can hold.
    """
    result: dict[str, Any] = {"type": type(event).__name__}
    for field in events.EVENT_FIELDS[type(event)]:
        value = getattr(event, field)
        if isinstance(value, dp_accounting.DpEvent):
            value = event_to_dict(value)
        elif isinstance(value, list):
            value = [event_to_dict(inner) for inner in value]
        else:
            value = _number(value)
        result[field] = value
    return result


def event_from_dict(value: Any, depth: int = 0) -> dp_accounting.DpEvent:
    """Builds the event that a dictionary describes; parameters are not checked.

    Args:
        value: what `event_to_dict` has returned.
        depth: how deep it is nested. Defaults to 0.

    Returns:
        The event.

    Raises:
        ValueError: if type or fields are unknown, or the nesting is too deep.
    """
    _expect(isinstance(value, dict), "a JSON object", "event", value)
    _expect(depth <= events.MAX_DEPTH, f"nested at most {events.MAX_DEPTH} deep", "event", value)
    name = value.get("type")
    if not isinstance(name, str) or name not in _TYPES:
        raise _error("one of " + ", ".join(sorted(_TYPES)), "event type", name)
    kind = _TYPES[name]
    fields = events.EVENT_FIELDS[kind]
    _expect_keys(value, {"type", *fields}, name)
    arguments = {}
    for field in fields:
        content = value[field]
        if field == "event":
            content = event_from_dict(content, depth + 1)
        elif field == "events":
            _expect(isinstance(content, list), "a list", field, content)
            content = [event_from_dict(inner, depth + 1) for inner in content]
        else:
            content = _from_number(content)
        arguments[field] = content
    return kind(**arguments)


def _release(entry: Any) -> tuple[str, Release]:
    _expect(isinstance(entry, dict), "a JSON object", "release", entry)
    _expect_keys(
        entry, {"event", "count", "description", "details", "origin", "estimate"}, "release"
    )
    estimate, details = entry["estimate"], entry["details"]
    count = entry["count"]
    _expect(type(count) is int and count >= 1, "an integer, at least 1", "count", count)
    _expect(isinstance(details, dict), "a JSON object", "details", details)
    release = Release(
        event_from_dict(entry["event"]),
        count,
        entry["description"],
        {key: _from_number(value) for key, value in details.items()},
        None if estimate is None else event_from_dict(estimate),
    )
    return entry["origin"], release


def _number(value: Any) -> Any:
    if isinstance(value, float) and math.isinf(value):
        return {"float": "inf" if value > 0 else "-inf"}
    return value


def _from_number(value: Any) -> Any:
    if isinstance(value, dict):
        name = value.get("float")
        if len(value) != 1 or not isinstance(name, str) or name not in _INFINITIES:
            raise _error('a number, a string, a bool or {"float": "inf"}', "value", value)
        return _INFINITIES[name]
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _expect_keys(value: dict[str, Any], keys: set[str], what: str) -> None:
    if set(value) != keys:
        raise _error(f"a {what} with the keys {sorted(keys)}", "keys", sorted(value))


def _expect(condition: bool, expected: str, name: str, value: Any) -> None:
    if not condition:
        raise _error(expected, name, value)


def _error(expected: str, name: str, value: Any) -> ValueError:
    return ValueError(
        f"`text` must be the JSON of a privacy ledger: {name} must be {expected}. "
        f"Received: {name}={_short(repr(value))}"
    )


def _short(text: str, length: int = 200) -> str:
    return text if len(text) <= length else text[:length] + "..."
