"""Files that are whole at any moment, whatever stops the program while it writes them."""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def replacing(path: str) -> Iterator[str]:
    """Gives the name of a file to write, which takes the place of `path` in one step.

    Whoever opens `path` finds what was there before or all of what was written. An error leaves
    what was there before; so does a crash, which may leave the other file beside it.
    """
    folder, name = os.path.split(path)
    partial = os.path.join(folder, f"partial.{name}")  # ends alike: writers go by that
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(partial)
        raise
    if os.name == "posix":  # Only there a folder can be opened, to force its new entry to disk.
        descriptor = os.open(folder or os.curdir, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
