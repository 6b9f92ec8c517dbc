"""How the programs read files that they or others wrote: checked, and without executing anything.

JSON, NumPy's arrays without pickles, and Keras's models in safe mode, in which no code comes out
of the file. What is cut, damaged or of another kind ends the program with one line that names it.
"""

import contextlib
import dataclasses
import json
import pathlib
import tokenize
import types
import typing
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import keras
import numpy as np
import tensorflow as tf

from tfdp.scripts.command_line import UsageError

T = TypeVar("T")

# What the readers of Python, NumPy, h5py and Keras raise on content that is not as expected.
UNREADABLE = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, NotImplementedError),
    *(OSError, RuntimeError, TypeError, ValueError, zipfile.BadZipFile, zlib.error),
    *(SyntaxError, tokenize.TokenError),  # NumPy parses its headers as Python's literals.
    tf.errors.OpError,
)
# An archive of images is compressed to some hundredth at the utmost.
_MOST_EXPANSION = 200
_SMALL = 2**26


@contextlib.contextmanager
def checked(path: str, what: str) -> Iterator[None]:
    """Turns what goes wrong in reading a file into an error of one line.

    Raises:
        UsageError: Naming the file.
    """
    try:
        yield
    except UsageError:
        raise
    except UNREADABLE as error:
        raise UsageError(
            f"The file is damaged, or is no {what}: {short(error)}. Received: file={path!r}"
        ) from error


def json_object(path: str, **keys: Any) -> dict[str, Any]:
    """Reads an object of JSON.

    Args:
        path: The file.
        **keys: Entries that it must have, with their types.

    Raises:
        UsageError: If it is something else.
    """
    with checked(path, "record of this program"):
        document = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        if not isinstance(document, dict):
            raise TypeError("it must be an object")
        for name, hint in keys.items():
            if name not in document or not fits(document[name], hint):
                raise TypeError(f"{name!r} is missing or of another type")
    return document


def as_dataclass(kind: type[T], document: Mapping[str, Any]) -> T:
    """Makes a dataclass of a mapping with its fields, all of their types.

    Raises:
        TypeError: If a field is missing, unknown or of another type.
    """
    result = kind(**document)
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if not fits(getattr(result, field.name), hints[field.name]):
            raise TypeError(f"{field.name!r} must be {hints[field.name]}")
    return result


def fits(value: Any, hint: Any) -> bool:
    """Whether a value, as JSON gives it, is of a type."""
    kind, inner = typing.get_origin(hint), typing.get_args(hint)
    if kind in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in inner)
    if kind is dict:
        return type(value) is dict and all(
            fits(k, inner[0]) and fits(v, inner[1]) for k, v in value.items()
        )
    if kind is list:
        return type(value) is list and all(fits(entry, inner[0]) for entry in value)
    if hint is float:
        return type(value) in (int, float)
    return hint is Any or type(value) is hint


def array(path: str) -> np.ndarray:
    """Reads an array of NumPy, `.npy`.

    Raises:
        UsageError: If it is something else, or holds Python objects.
    """
    with checked(path, "array"), open(path, "rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def arrays(path: str, *names: str) -> list[np.ndarray]:
    """Reads arrays of an archive of NumPy, `.npz`, by name.

    Raises:
        UsageError: If it is something else, lacks one, or one holds Python objects.
    """
    with checked(path, "archive of arrays"):
        with zipfile.ZipFile(path) as archive:
            _refuse_bombs(archive)
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            found = [archive[name] for name in names]
        if not all(isinstance(entry, np.ndarray) for entry in found):  # NumPy gives other bytes.
            raise TypeError("an entry is no array")
        return found


def model(path: str) -> keras.Model:
    """Loads a model in safe mode, not compiled.

    Raises:
        UsageError: If it is none, or holds code.
    """
    with checked(path, "model of Keras that can be loaded safely"):
        with zipfile.ZipFile(path) as archive:
            _refuse_bombs(archive)
        loaded = keras.saving.load_model(path, compile=False, safe_mode=True)
        if not isinstance(loaded, keras.Model):
            raise TypeError(f"it holds a {type(loaded).__name__}")
        return loaded


def _refuse_bombs(archive: zipfile.ZipFile) -> None:
    for entry in archive.infolist():
        if entry.file_size > max(_SMALL, _MOST_EXPANSION * entry.compress_size):
            raise ValueError(f"{entry.filename!r} is {entry.file_size} bytes when unpacked")


def short(error: Exception, length: int = 300) -> str:
    """What an error says, in one line of at most so many letters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= length else text[:length] + "..."
