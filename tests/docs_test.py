"""The pages of the documentation: every public name is there, and the code in the guides runs."""

import contextlib
import doctest
import importlib
import io
import pathlib
import pkgutil
import re

import keras
import pytest

import tfdp

DOCS = pathlib.Path(__file__).parent.parent / "docs"
#: A fenced block: its language and what is in it.
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DIRECTIVE = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)
#: What was printed may be other than the page says where that has `...`.
ROUGHLY = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def rooms():
    """The package, and its public modules: those with an `__all__`, or listed in the package's."""
    found = [tfdp]
    for module in pkgutil.iter_modules(tfdp.__path__, "tfdp."):
        name = module.name.removeprefix("tfdp.")
        if not name.startswith("_") and name != "scripts":
            room = importlib.import_module(module.name)
            if name in tfdp.__all__ or hasattr(room, "__all__"):
                found.append(room)
    return found


def public_names(room):
    """What `__all__` lists; without it, what is defined there under a public name."""
    if hasattr(room, "__all__"):
        return list(room.__all__)
    return [
        name
        for name, value in vars(room).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == room.__name__
    ]


def documented():
    """What the API pages have directives for."""
    paths = [
        path for page in (DOCS / "api").glob("*.md") for path in DIRECTIVE.findall(page.read_text())
    ]
    found = []
    for path in paths:
        module, _, name = path.rpartition(".")
        found.append(getattr(importlib.import_module(module), name))
    return found


@pytest.mark.parametrize("room", rooms(), ids=lambda room: room.__name__)
def test_every_public_name_has_its_place_in_the_api_pages(room):
    there = documented()
    names = public_names(room)
    assert names
    pages = {page.stem for page in (DOCS / "api").glob("*.md")}
    missing = [
        name
        for name in names
        if not any(getattr(room, name) is value for value in there)
        and not (room is tfdp and name in pages)  # A module, which has a page.
    ]
    assert not missing


@pytest.mark.parametrize("room", rooms(), ids=lambda room: room.__name__)
def test_every_public_class_and_function_has_an_example(room):
    values = {name: getattr(room, name) for name in public_names(room)}
    called = {name: value for name, value in values.items() if callable(value)}
    assert [n for n, value in called.items() if "Example:" not in (value.__doc__ or "")] == []


def guides():
    """The pages that have code to run."""
    return [page for page in sorted(DOCS.glob("*.md")) if "```python\n" in page.read_text()]


@pytest.mark.parametrize("page", guides(), ids=lambda page: page.stem)
def test_the_code_of_a_guide_runs_and_prints_what_the_page_says(page, tmp_path, monkeypatch):
    """Blocks of `python` run in order, in one namespace; `output` is what the one before prints.

    What only illustrates is marked `py`, `sh` or `text`.
    """
    monkeypatch.chdir(tmp_path)
    keras.utils.clear_session()  # Layers without a name are numbered by those made before.
    text, namespace, printed = page.read_text(), {"__name__": page.stem}, None
    for block in BLOCK.finditer(text):
        language, content = block.groups()
        if language == "python":
            above = "\n" * (text.count("\n", 0, block.start()) + 1)  # For the lines of an error.
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(compile(above + content, str(page), "exec"), namespace)
            printed = output.getvalue()
        elif language == "output":
            said = doctest.OutputChecker().check_output(content, printed, ROUGHLY)
            assert said, f"{page.name} says\n{content}\nbut this is printed:\n{printed}"
