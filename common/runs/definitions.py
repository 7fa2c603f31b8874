"""The definitions of one module, each with a fingerprint of what it computes.

Reading a module takes 5 ms and comes out the same until its text changes, so what comes of it is
kept for the processes that follow where Python keeps its bytecode and Numba its kernels.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import hashlib
import importlib.util
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Final

from common.runs import imports
from common.runs.imports import for_type_checkers, resolve_source

#: Top-level packages whose modules are fingerprinted; all others are known by their version.
PACKAGES: Final = ("common", "papers")
#: The name under which a module's other top-level statements go, in their order.
STATEMENTS: Final = "(statements)"
#: Classes of lists that load what they name when asked for: one entry more changes no other.
REGISTRIES: Final = ("Methods",)
#: The names that a star import takes; no module here is imported so.
PUBLIC: Final = "__all__"
#: Of the code that reads modules, and of Python's grammar: others may find something else.
#: Taken while this is loaded, for a run may go on for days, and the files be edited meanwhile.
_READER: Final = "\0".join(
    [sys.version, *(Path(str(file)).read_text("utf8") for file in (__file__, imports.__file__))]
)


@dataclass(frozen=True)
class Definition:
    """One definition of a module: its fingerprint, and the project's names that it uses.

    ``used`` holds names as written (``f``, or ``module.f``), defined in its module or imported.
    """

    own: str
    used: frozenset[str]


@dataclass(frozen=True)
class Module:
    """What one module defines.

    Attributes:
        path: in the tree.
        definitions: by name.
        imported: names that imports of this project bring: name -> (module, name there or "").
    """

    path: str
    definitions: dict[str, Definition]
    imported: dict[str, tuple[str, str]]


@cache
def read_module(path: str, text: str, file: Path | None = None) -> Module:
    """The module with this text, read once in a process, and once at all where ``file`` is given.

    Args:
        path: in the tree.
        file: where the text stands; what is found is kept beside its bytecode.

    Raises:
        SyntaxError, ValueError: it is not Python.
    """
    if file is None:
        return _parsed(path, text)
    kept = Path(importlib.util.cache_from_source(str(file))).with_suffix(".definitions")
    try:
        return _from_text(path, text, kept.read_text(encoding="utf8"))
    except (OSError, ValueError):
        module = _parsed(path, text)
        _keep(kept, _as_text(module, text))
        return module


def _as_text(module: Module, text: str) -> str:
    """What is kept: a seal on the reader, the module's text and the rest, and then the rest."""
    found = {name: [one.own, sorted(one.used)] for name, one in module.definitions.items()}
    body = json.dumps([found, module.imported])
    return f"{_seal(module.path, text, body)}\n{body}"


def _from_text(path: str, text: str, kept: str) -> Module:
    """Raises ValueError for what is of another text or reader, or is damaged."""
    seal, _, body = kept.partition("\n")
    if seal != _seal(path, text, body):
        raise ValueError(f"{path}: what is kept of it is not of this text")
    found, imported = json.loads(body)
    definitions = {name: Definition(own, frozenset(used)) for name, (own, used) in found.items()}
    return Module(path, definitions, {name: (one, two) for name, (one, two) in imported.items()})


def _seal(*parts: str) -> str:
    return hashlib.sha256("\0".join([_READER, *parts]).encode()).hexdigest()


def _keep(path: Path, text: str) -> None:
    """Write it whole or not at all; where nothing may be written, nothing is kept."""
    temporary = path.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf8")
        temporary.replace(path)


def _parsed(path: str, text: str) -> Module:
    tree = ast.parse(text)
    package = PurePosixPath(path).parent.parts
    # Imports inside functions bring names as those on top do.
    brings = dict([*_imports(tree, package), *_attached(tree, package)])
    imported = {
        name: (source, original)
        for name, (source, original) in brings.items()
        if source.partition(".")[0] in PACKAGES
    }
    groups = _grouped([node for node in _Meaning().visit(tree).body if not _attaches(node)])
    known = set(groups) | set(imported)
    definitions = {
        name: _definition(nodes, known, brings, imported) for name, nodes in groups.items()
    }
    return Module(path, definitions, imported)


def _grouped(body: list[ast.stmt]) -> dict[str, list[ast.stmt]]:
    """Statements by the name they define; where a name's value changes, order counts."""
    body = [part for node in body for part in _entries(node)]
    names = [_defines(node) for node in body]
    values = Counter(names)
    groups: dict[str, list[ast.stmt]] = {}
    for node, name in zip(body, names, strict=True):
        alone = name and (values[name] == 1 or not isinstance(node, ast.Assign))
        groups.setdefault(name if alone else STATEMENTS, []).append(node)
    groups.pop(PUBLIC, None)
    return groups


def _definition(
    nodes: list[ast.stmt],
    known: set[str],
    brings: dict[str, tuple[str, str]],
    imported: dict[str, tuple[str, str]],
) -> Definition:
    names: set[str] = set()
    used: set[str] = set()
    for node in (inner for outer in nodes for inner in ast.walk(outer)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in imported:
                used.add(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.Name):
            names.add(node.id)
    used |= names & known
    sources = []
    for name in sorted(names & set(brings)):
        source, original = brings[name]
        if name not in imported:
            sources.append(f"{name}={source}:{original}")
        elif name != (last := original or source.rpartition(".")[2]) or hasattr(builtins, name):
            sources.append(f"{name}={last}")
    text = "\n".join([*(_dump(node) for node in nodes), *sources])
    return Definition(hashlib.sha256(text.encode()).hexdigest()[:16], frozenset(used))


def _defines(node: ast.stmt) -> str:
    """The name that a top-level statement gives a meaning; "" if it does anything else."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return node.name
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
        return target.id if isinstance(target, ast.Name) else ""
    return ""


def _entries(node: ast.stmt) -> list[ast.stmt]:
    """A registry's entries, each by itself (``METHODS.cg``); any other statement as it is."""
    if not (
        isinstance(node, ast.Assign)
        and _defines(node)
        and isinstance(node.value, ast.Call)
        and isinstance(node.value.func, ast.Name)
        and node.value.func.id in REGISTRIES
    ):
        return [node]
    entries, node.value.keywords = node.value.keywords, []
    names = [ast.Name(f"{_defines(node)}.{entry.arg}") for entry in entries]
    return [
        node,
        *(ast.Assign([name], entry.value) for name, entry in zip(names, entries, strict=True)),
    ]


def _imports(tree: ast.Module, package: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Every imported name of a module: (name, (module, name there or ""))."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                yield alias.asname or top, (alias.name if alias.asname else top, "")
        elif isinstance(node, ast.ImportFrom):
            source = resolve_source(node, package)
            for alias in node.names:
                yield alias.asname or alias.name, (source, alias.name)


def _attaches(node: ast.stmt) -> bool:
    """Whether a statement does nothing but list what a package brings when asked for.

    That is ``lazy.attach(__name__, submod_attrs={...})`` in full letters; any other call counts.
    """
    match node:
        case ast.Assign(
            value=ast.Call(
                func=ast.Attribute(ast.Name("lazy"), "attach"),
                args=[ast.Name("__name__")],
                keywords=[ast.keyword("submod_attrs", listed)],
            )
        ):
            return all(
                isinstance(part, ast.Dict | ast.List | ast.Constant | ast.Load)
                for part in ast.walk(listed)
            )
    return False


def _attached(tree: ast.Module, package: tuple[str, ...]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Names that the package brings when asked for, as :func:`_imports` tells them."""
    for node in filter(_attaches, tree.body):
        listed = node.value.keywords[0].value  # type: ignore[attr-defined]
        for module, names in ast.literal_eval(listed).items():
            for name in names:
                yield name, (".".join([*package, module]), name)


class _Meaning(ast.NodeTransformer):
    """Takes out of a syntax tree what computes nothing."""

    def __init__(self) -> None:
        self._in_class = False

    def _inside(self, node: ast.AST, in_class: bool) -> ast.AST:
        before, self._in_class = self._in_class, in_class
        self.generic_visit(node)
        self._in_class = before
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self._inside(node, in_class=True)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self._inside(node, in_class=False)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        return self._inside(node, in_class=False)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        self.generic_visit(node)
        if self._in_class:
            return node
        return node.value and ast.Assign(targets=[node.target], value=node.value)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        self.generic_visit(node)
        return None if isinstance(node.value, ast.Constant) else node

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        return node.orelse if for_type_checkers(node.test) else node

    def visit_Pass(self, node: ast.Pass) -> None:
        return None

    def visit_Import(self, node: ast.Import) -> None:
        return None  # what a definition uses of it counts there

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        return None


def _dump(node: object) -> str:
    """A syntax tree as text, the same for every supported version of Python."""
    if isinstance(node, ast.AST):
        parts = []
        for name in node._fields:
            value = getattr(node, name, None)
            if value is not None and value != [] and name not in ("ctx", "kind", "type_comment"):
                parts.append(f"{name}={_dump(value)}")
        return f"{type(node).__name__}({','.join(parts)})"
    if isinstance(node, list):
        return f"[{','.join(map(_dump, node))}]"
    return repr(node)
