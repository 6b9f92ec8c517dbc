"""Runs the notebooks from top to bottom, and keeps what they print and draw.

    python colab/execute.py                                  # all of them, in place
    python colab/execute.py --output_dir=runs/notebooks colab/1_private_training.ipynb

The kernel is the Python that runs this file, in an empty folder. The first error ends it.
"""

import argparse
import pathlib
import re
import sys
import tempfile

import nbclient
import nbformat
from jupyter_client import AsyncKernelManager, kernelspec

FOLDER = pathlib.Path(__file__).parent
SECONDS_A_CELL = 600
#: What TensorFlow writes on a machine without a GPU before it has read its log level.
NOISE = re.compile(
    r".*(before absl::InitializeLog\(\)|cudart_stub\.cc|cuda_platform\.cc|"
    r"failed call to cuInit|oneDNN custom operations are on|"
    r"when one has already been registered).*\n?"
)


def execute(path: pathlib.Path) -> nbformat.NotebookNode:
    """The notebook with the outputs of a run.

    Args:
        path: The notebook.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell fails.
        nbclient.exceptions.CellTimeoutError: If one takes too long.
    """
    notebook = nbformat.read(path, as_version=4)
    # Without folders of kernels only this interpreter's own is left.
    own = kernelspec.KernelSpecManager(kernel_dirs=[])
    with tempfile.TemporaryDirectory() as folder:
        nbclient.NotebookClient(
            notebook,
            km=AsyncKernelManager(kernel_name="python3", kernel_spec_manager=own),
            timeout=SECONDS_A_CELL,
            coalesce_streams=True,
            extra_arguments=["--log-level=ERROR"],
            resources={"metadata": {"path": folder}},
            record_timing=False,
        ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(_without_noise, cell.outputs) if output]
    notebook.metadata.language_info = {"name": "python"}  # Else the version that ran it.
    return notebook


def _without_noise(output: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """The output, or `None` if nothing is left of it."""
    if output.get("name") == "stderr":
        output.text = NOISE.sub("", output.text)
    return output if output.get("text") != "" else None


def main() -> None:
    """Runs the program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=pathlib.Path, help="Defaults to all.")
    parser.add_argument("--output_dir", type=pathlib.Path, help="Defaults to where they are.")
    arguments = parser.parse_args()
    for path in arguments.notebooks or sorted(FOLDER.glob("*.ipynb")):
        print(path.name, flush=True)
        done = execute(path)
        nbformat.write(done, (arguments.output_dir or path.parent) / path.name)


if __name__ == "__main__":
    sys.exit(main())
