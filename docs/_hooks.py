"""Makes the pages that need no writing: one per room from its `__all__`, and the files of the root.

A public name cannot be missing from the reference, because the reference is made from the names.
"""

import ast
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "kerastools"


def rooms() -> dict[str, tuple[str, list[str]]]:
    """Returns for each module its docstring and its public names, read without importing it.

    First the package itself, with the names that are no rooms.
    """
    tree = _parsed(PACKAGE / "__init__.py")
    names = _public_names(tree)
    inner = [name for name in names if (PACKAGE / name).is_dir()]
    own = [name for name in names if name not in inner]
    found = {"kerastools": (ast.get_docstring(tree) or "", own)}
    for name in inner:
        tree = _parsed(PACKAGE / name / "__init__.py")
        found[f"kerastools.{name}"] = (ast.get_docstring(tree) or "", _public_names(tree))
    return found


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _public_names(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    raise ValueError("an __init__.py of the package has no __all__")


def page(room: str, docstring: str, names: list[str]) -> str:
    """Returns the page of a room, a directive for each name."""
    directives = [f"::: {room}.{name}" for name in names]
    return "\n\n".join([f"# {room}", docstring, *directives]) + "\n"


def on_config(config: Any) -> Any:
    """Lists the pages."""
    reference = [{room: f"reference/{room}.md"} for room in rooms()]
    written = sorted(p.name for p in (ROOT / "docs").glob("*.md"))
    config.nav = [{"Overview": "index.md"}, *written, {"Reference": reference}]
    config.nav += ["CHANGELOG.md", "CONTRIBUTING.md"]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the generated pages."""
    texts = {
        f"reference/{room}.md": page(room, docstring, names)
        for room, (docstring, names) in rooms().items()
    }
    overview = (ROOT / "README.md").read_text(encoding="utf-8")
    texts["index.md"] = overview.replace("](docs/", "](")
    for name in ("CHANGELOG.md", "CONTRIBUTING.md"):
        texts[name] = (ROOT / name).read_text(encoding="utf-8")
    colours = HtmlFormatter(style="friendly").get_style_defs(".highlight")
    texts["style.css"] = f"{colours}\n{(ROOT / 'docs' / '_style.css').read_text()}"
    for path, text in texts.items():
        files.append(File.generated(config, path, content=text))
    return files
