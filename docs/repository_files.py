"""What the site takes from elsewhere in the repository: RESULTS.md with its pictures, notebooks.

A guide shows a table of RESULTS.md in the place of a line that links to it, and ends in the comment
`<!-- table: NAME -->`. RESULTS.md has the table between `<!-- table: NAME -->` and `<!-- end -->`.
"""

import pathlib
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_ROOT = pathlib.Path(__file__).parent.parent
_RESULTS = _ROOT / "RESULTS.md"
_PLACE = re.compile(r"^\[.*<!-- table: (\w+) -->$", re.MULTILINE)
_TABLE = re.compile(r"^<!-- table: (\w+) -->\n(.*?)^<!-- end -->$", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called by MkDocs when it has found the files of `docs/`."""
    found = {"results.md": _RESULTS}
    found |= {f"results/{path.name}": path for path in (_ROOT / "results").glob("*.png")}
    found |= {f"colab/{path.name}": path for path in (_ROOT / "colab").glob("*.ipynb")}
    for name, path in found.items():
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **kwargs) -> str:
    """Called by MkDocs for each page, before it is made into HTML."""
    tables = dict(_TABLE.findall(_RESULTS.read_text(encoding="utf-8")))
    markdown = _PLACE.sub(lambda place: tables[place[1]].strip(), markdown)
    return markdown.replace("](../RESULTS.md", "](results.md").replace("](../colab/", "](colab/")
