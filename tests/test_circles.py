"""No modules of a folder import one another in a circle, not even for type checkers alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from common import ROOT
from common.experiments.schema import find_papers
from common.runs.imports import resolve_source

FOLDERS = [ROOT / "common", *find_papers()]


def list_modules(folder: Path, root: Path) -> dict[str, Path]:
    """Files of a folder's modules, by their dotted names from ``root`` on."""
    found = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def list_imports(name: str, modules: Mapping[str, Path], root: Path) -> Iterator[str]:
    """Those of ``modules`` that the module ``name`` imports anywhere, also in functions.

    The packages above an imported module count, for they are run first; those above ``name``
    itself do not, for they were run before it.
    """
    package = modules[name].relative_to(root).parts[:-1]
    for node in ast.walk(ast.parse(modules[name].read_text(encoding="utf8"))):
        named: list[str] = []
        if isinstance(node, ast.Import):
            named = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            source = resolve_source(node, package)
            each = [f"{source}.{alias.name}" for alias in node.names]
            named = [module if module in modules else source for module in each]
        for module in named:
            yield module
            parts = module.split(".")
            above = [".".join(parts[:count]) for count in range(1, len(parts))]
            yield from (each for each in above if not name.startswith(f"{each}."))


def find_circle(folder: Path, root: Path = ROOT) -> list[str]:
    """Modules of which each imports the one before it, and the first the last; [] without any."""
    modules = list_modules(folder, root)
    graph = {
        name: {other for other in list_imports(name, modules, root) if other in modules} - {name}
        for name in modules
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_no_modules_import_one_another_in_a_circle(folder: Path) -> None:
    assert len(list_modules(folder, ROOT)) > 1
    assert find_circle(folder) == []


@pytest.mark.parametrize(
    "back",
    [
        "from library import a",
        "import library.a",
        "from .a import x",
        "from . import a",
        "def late():\n    from library.a import x",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from library.a import x",
    ],
)
def test_circles_are_seen_however_they_are_closed(tmp_path: Path, back: str) -> None:
    folder = tmp_path / "library"
    folder.mkdir()
    (folder / "__init__.py").write_text("from library.a import x\n")
    (folder / "a.py").write_text("from library import b\nx = 1\n")
    (folder / "b.py").write_text("import os\n")
    assert find_circle(folder, tmp_path) == []
    (folder / "b.py").write_text(back)
    assert set(find_circle(folder, tmp_path)) == {"library.a", "library.b"}


def test_a_circle_through_a_package_is_one(tmp_path: Path) -> None:
    for package, text in (("one", "from library.one import a"), ("two", "")):
        folder = tmp_path / "library" / package
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(text)
        (folder / "a.py").write_text("")
    (tmp_path / "library" / "two" / "a.py").write_text("from library.one.b import x")
    (tmp_path / "library" / "one" / "b.py").write_text("x = 1")
    assert find_circle(tmp_path / "library", tmp_path) == []
    (tmp_path / "library" / "one" / "a.py").write_text("import library.two.a")
    assert "library.one" in find_circle(tmp_path / "library", tmp_path)
