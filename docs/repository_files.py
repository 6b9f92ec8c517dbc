"""Pages of the site that lie elsewhere in the repository: RESULTS.md and its pictures."""

import pathlib

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called by MkDocs when it has found the files of `docs/`."""
    root = pathlib.Path(config.config_file_path).parent
    found = {"results.md": root / "RESULTS.md"}
    found |= {f"results/{path.name}": path for path in (root / "results").glob("*.png")}
    for name, path in found.items():
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files
