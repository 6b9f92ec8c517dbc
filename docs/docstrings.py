"""How the docstrings of tfdp become API pages: an extension of griffe, which reads the sources.

Griffe knows the sections of Google's style by their plural names, and runs no code: classes that
are made when a module is imported have to be shown to it.
"""

import ast
import re

import griffe

_HEADINGS = {"Example:": "Examples:", "Call arguments:": "Args: Call arguments"}
_NAMES = re.compile(r"(?<!`)`(tfdp(?:\.\w+)+)`(?!`)")
_MADE = re.compile(r"make_vectorized_keras_optimizer_class\((keras\.optimizers\.(\w+))\)")


class HouseStyle(griffe.Extension):
    """Names sections as griffe does, links names, and shows the optimizer classes."""

    def on_object(self, *, obj: griffe.Object, **kwargs) -> None:
        """Called for each object that has been read."""
        if obj.docstring is None:
            return
        lines = obj.docstring.value.split("\n")
        for place, line in enumerate(lines):
            heading = line.strip()
            if heading in _HEADINGS:
                lines[place] = line.replace(heading, _HEADINGS[heading])
            elif not heading.startswith((">>>", "...")):
                lines[place] = _NAMES.sub(
                    r'<autoref optional identifier="\1"><code>\1</code></autoref>', line
                )
        obj.docstring.value = "\n".join(lines)

    def on_module_members(self, *, mod: griffe.Module, **kwargs) -> None:
        """Called for each module: puts classes in the place of variables that hold made ones."""
        for name, attribute in list(mod.members.items()):
            value = str(attribute.value) if isinstance(attribute, griffe.Attribute) else ""
            made = _MADE.fullmatch(value)
            if made:
                mod.set_member(name, _optimizer_class(mod, name, *made.groups()))


def _optimizer_class(mod: griffe.Module, name: str, base: str, base_name: str) -> griffe.Class:
    """The class inside of the function that makes it, with its name and its text."""
    nodes = list(ast.walk(ast.parse(mod.filepath.read_text())))
    made = next(n for n in nodes if getattr(n, "name", "") == "VectorizedDPKerasOptimizer")
    text = ast.literal_eval(str(mod["_DOCSTRING"].value)).format(base=base_name)
    made.name, made.bases = name, [ast.parse(base, mode="eval").body]
    made.body.insert(0, ast.Expr(ast.Constant(text)))
    shown = griffe.visit("shown", filepath=mod.filepath, code=ast.unparse(made))[name]
    HouseStyle().on_object(obj=shown)
    return shown
