"""The notebooks: they run from top to bottom, and are committed with what they print and draw."""

import json
import pathlib
import re
import subprocess
import sys

import nbformat
import pytest

COLAB = pathlib.Path(__file__).parent.parent / "colab"
NOTEBOOKS = sorted(COLAB.glob("*.ipynb"))
LARGEST = 400_000
#: The beginning of a path of some machine, outside of a word, an address or a fraction.
MACHINE_PATH = re.compile(r"(?<![\w.:/])(/\w+/|[A-Z]:\\)")

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    """The cells of a notebook that have code, as JSON has them."""
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def text_of(output):
    """What an output shows, but for pictures."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    return "".join("".join(data[kind]) for kind in data if not kind.startswith("image/"))


def kinds(cells):
    """For each cell what kinds of outputs it has; what goes to stderr differs between machines."""
    return {
        cell["id"]: {
            output["output_type"] for output in cell["outputs"] if output.get("name") != "stderr"
        }
        for cell in cells
    }


def test_there_are_five():
    assert [path.name[0] for path in NOTEBOOKS] == list("12345")


@every_notebook
def test_a_notebook_is_valid_and_small(path):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    ids = [cell.id for cell in notebook.cells]
    assert len(ids) == len({*ids})
    assert path.stat().st_size < LARGEST


@every_notebook
def test_the_first_cell_of_code_installs_the_package_where_it_is_missing(path):
    source = "".join(code_cells(path)[0]["source"])
    assert 'if importlib.util.find_spec("tfdp") is None:' in source
    assert "\n    %pip install" in source


@every_notebook
def test_the_committed_outputs_are_those_of_one_run_from_top_to_bottom(path):
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    for output in outputs:
        assert output["output_type"] != "error"
        text = text_of(output)
        assert not MACHINE_PATH.search(text), text
        assert not re.search("Traceback|Warning:|WARNING:tensorflow", text), text


def test_a_path_of_a_machine_is_found():
    for path in ("/home/someone/file.py", 'in "/tmp/x"', r"C:\Users"):
        assert MACHINE_PATH.search(path)
    for other in ("1/64 of it", "down1_0/query", "6/6 - 0s - 34ms/step", "https://arxiv.org/abs/1"):
        assert not MACHINE_PATH.search(other)


@pytest.mark.slow
@every_notebook
def test_a_notebook_runs_without_an_error(path, tmp_path):
    # In a process of its own, whose warnings are those of Jupyter.
    command = [sys.executable, str(COLAB / "execute.py"), f"--output_dir={tmp_path}", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert kinds(code_cells(tmp_path / path.name)) == kinds(code_cells(path))


@pytest.mark.slow
def test_an_error_in_a_notebook_is_an_error_of_the_program(tmp_path):
    cells = [nbformat.v4.new_code_cell(source) for source in ("1 + 1", "1 / 0")]
    path = tmp_path / "wrong.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    before = path.read_text()
    done = subprocess.run(
        [sys.executable, str(COLAB / "execute.py"), str(path)], capture_output=True, text=True
    )
    assert done.returncode != 0 and "ZeroDivisionError" in done.stderr
    assert path.read_text() == before
