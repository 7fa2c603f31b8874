"""Which files a module of this tree loads, read from its imports without running it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from common import ROOT

#: What makes a table or a figure out of records: the papers, and what they share for this.
DRAWN_BY: Final = ("papers", "common.results")


@cache
def loaded_files(*modules: str, root: Path = ROOT) -> tuple[str, ...]:
    """Files of ``modules`` and of all that they import, and so on, as paths below ``root``.

    Followed within :data:`DRAWN_BY`: imports in functions as well, those for type checkers not; of
    a package, which may be just on the way to a module, what its own import runs. What is imported
    by a name that is computed is not seen.
    """
    found: set[str] = set()
    pending = list(modules)
    while pending:
        for path in _find_files(pending.pop(), root):
            if path not in found:
                found.add(path)
                pending += _list_imports(root / path, Path(path).parent.parts)
    return tuple(sorted(found))


@cache
def _find_files(name: str, root: Path) -> tuple[str, ...]:
    """Files that Python runs to import a dotted name, which may be one in a module."""
    if not any(f"{name}.".startswith(f"{part}.") for part in DRAWN_BY):
        return ()
    stem, files = "", []
    for part in name.split("."):
        stem = f"{stem}/{part}" if stem else part
        files += [f"{stem}/__init__.py", f"{stem}.py"]
    return tuple(file for file in files if (root / file).is_file())


@cache
def _list_imports(path: Path, package: tuple[str, ...]) -> tuple[str, ...]:
    """Dotted names that a module of ``package`` imports; none of one that is not Python yet."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return ()  # whatever runs it will say so, and the rest can go on
    return tuple(_imported(tree, package, in_functions=path.name != "__init__.py"))


def _imported(node: ast.AST, package: tuple[str, ...], in_functions: bool) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield from named_by(child, package)
        elif isinstance(child, ast.If) and for_type_checkers(child.test):
            yield from _imported(ast.Module(child.orelse, []), package, in_functions)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not in_functions:
            continue
        elif isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield from _imported(child, package, in_functions)


def list_imports(text: str, package: tuple[str, ...]) -> Iterator[str]:
    """Dotted names that a module of ``package`` imports anywhere, for type checkers too."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from named_by(node, package)


def named_by(node: ast.Import | ast.ImportFrom, package: tuple[str, ...]) -> Iterator[str]:
    """Dotted names that a statement imports: modules, and what may be one or a name in one."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    else:
        module = resolve_source(node, package)
        yield module
        yield from (f"{module}.{alias.name}" for alias in node.names)


def resolve_source(node: ast.ImportFrom, package: tuple[str, ...]) -> str:
    """Dotted name of the module that names are imported from, a relative one resolved."""
    above = package[: len(package) - node.level + 1] if node.level else ()
    return ".".join([*above, *filter(None, [node.module])])


def for_type_checkers(test: ast.expr) -> bool:
    """Whether a condition is ``TYPE_CHECKING``: what stands below it is never run."""
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
    return name == "TYPE_CHECKING"
