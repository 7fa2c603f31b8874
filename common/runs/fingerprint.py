"""What the code of a run computes, as fingerprints that outlive moving and re-wording it.

A record names every definition (function, class, constant) of every module that its run had loaded,
each with a fingerprint of its syntax tree without docstrings, comments, formatting and annotations
of functions. (Those of a class's fields stay: pydantic and dataclasses compute with them.) An
imported name counts as that name and, where it comes from this project, as the definition that it
stands for; the path that it is imported by does not count. So a record stays current while modules
are moved, renamed, split or re-worded and while definitions are added beside the old ones, and goes
stale when a constant, an operator, a default, the order of statements or the source of a name
changes.

Order counts in every body. At the top level of a module, where definitions may stand in any order,
it counts among statements that do more than give a new name its value.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import json
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path, PurePosixPath
from typing import Final

from common import ROOT
from common.runs.imports import for_type_checkers, source_of

#: Path of a module in the tree -> definition -> its fingerprint, then ``name=fingerprint`` of each
#: other definition of this project that it uses, of its own module or of another one.
Code = dict[str, dict[str, str]]

#: Top-level packages whose modules are fingerprinted; all others are known by their version.
PACKAGES: Final = ("common", "papers")
#: The name under which a module's other top-level statements go, in their order.
STATEMENTS: Final = "(statements)"
#: Classes of lists that load what they name when asked for: one entry more changes no other.
REGISTRIES: Final = ("Methods",)
#: The names that a star import takes; no module here is imported so.
PUBLIC: Final = "__all__"
#: Stands for a module whose file was edited while the run was at work: nobody knows what ran.
EDITED: Final = {"(edited during the run)": "unknown"}

#: Modules that read, check, name and write, and compute nothing: settings and checksums of data
#: stand in the record itself, and are compared there.
CLERKS: Final = frozenset(
    f"common/{name}.py"
    for name in (
        "__init__",
        "data/__init__",
        "data/registry",
        "errors",
        "experiments/__init__",
        "experiments/documents",
        "experiments/schema",
        "experiments/settings",
        "progress",
        "runs/__init__",
        "runs/cli",
        "runs/files",
        "runs/fingerprint",
        "runs/imports",
        "runs/machine",
        "runs/programs",
        "runs/record",
        "runs/run",
    )
)


@dataclass(frozen=True)
class Definition:
    """One definition of a module: its fingerprint, and the project's names that it uses.

    ``used`` holds names as written (``f``, or ``module.f``), defined in its module or imported.
    """

    own: str
    used: frozenset[str]


class Sources(Mapping[str, str]):
    """Text of every module of the project by its path in the tree, read when asked for.

    Args:
        roots: folders that hold ``common`` or ``papers``; of a path in several, the first counts.
    """

    def __init__(self, *roots: Path) -> None:
        self._roots = roots

    def __getitem__(self, path: str) -> str:
        for root in self._roots:
            if (root / path).is_file():
                return (root / path).read_text(encoding="utf8")
        raise KeyError(path)

    def __contains__(self, path: object) -> bool:
        return any((root / str(path)).is_file() for root in self._roots)

    def __iter__(self) -> Iterator[str]:
        found: dict[str, None] = {}
        for root in self._roots:
            for package in PACKAGES:
                for file in sorted((root / package).rglob("*.py")):
                    found[file.relative_to(root).as_posix()] = None
        return iter(found)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Tree:
    """The definitions of a checkout's modules; each module is parsed once, when asked for."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._sources = sources
        self._modules: dict[str, Module | None] = {}
        self._changed: dict[str, list[str]] = {}
        self._places: dict[str, dict[str, str]] = {}

    def module(self, path: str) -> Module | None:
        """The module at ``path``, or None if there is none that parses."""
        if path not in self._modules:
            try:
                self._modules[path] = parsed(path, self._sources[path])
            except (KeyError, SyntaxError, ValueError):
                self._modules[path] = None
        return self._modules[path]

    def code(self, paths: Iterable[str]) -> Code:
        """Fingerprints of the modules at ``paths``, for a record."""
        found = {}
        for path in paths:
            module = self.module(path)
            if module is None:
                found[path] = dict(EDITED)
                continue
            found[path] = {
                name: " ".join([definition.own, *self._links(module, definition)])
                for name, definition in module.definitions.items()
            }
        return found

    def changed(self, code: Code) -> list[str]:
        """Definitions of ``code`` that this tree no longer has, as ``path: name``."""
        known = json.dumps(code)  # records of one program share their code
        if known not in self._changed:
            self._changed[known] = self._find_changed(code)
        return self._changed[known]

    def places(self, code: Code) -> dict[str, str]:
        """Where the modules of ``code`` are now: path -> the one that holds most of it."""
        known = json.dumps(code)
        if known not in self._places:
            self._places[known] = {path: self._place(path, named) for path, named in code.items()}
        return self._places[known]

    def _place(self, path: str, definitions: Mapping[str, str]) -> str:
        if self.module(path) is not None:
            return path
        holders = Counter(
            module.path
            for text in definitions.values()
            for module, _ in self._by_content.get(text.split()[0], [])
        )
        return holders.most_common(1)[0][0] if holders else path

    def _find_changed(self, code: Code) -> list[str]:
        found = []
        for path, definitions in code.items():
            module = self.module(path)
            if module and STATEMENTS in module.definitions and STATEMENTS not in definitions:
                found.append(f"{path}: {STATEMENTS}")
            found += [
                f"{path}: {name}"
                for name, text in definitions.items()
                if name != PUBLIC and not self._has(module, name, *text.split())
            ]
        return found

    def _has(self, module: Module | None, name: str, own: str, *links: str) -> bool:
        """Whether a definition is there, at its place or, where that is free, elsewhere."""
        if module and name in module.definitions:
            places = [(module, module.definitions[name])]
        else:
            places = self._by_content.get(own, [])
        return any(
            definition.own == own and self._linked(place, definition, links)
            for place, definition in places
        )

    def _linked(self, place: Module, definition: Definition, links: Iterable[str]) -> bool:
        """Whether names still stand for what they did; what is gone is told as changed itself."""
        present = dict(link.split("=") for link in self._links(place, definition))
        recorded = dict(link.split("=") for link in links)
        # One that is new in its module has taken the name from another library or from Python.
        taken = (present.keys() - recorded.keys()) & place.definitions.keys()
        return not taken and all(
            present.get(name) == own or own not in self._by_content
            for name, own in recorded.items()
        )

    @cached_property
    def _by_content(self) -> dict[str, list[tuple[Module, Definition]]]:
        found: dict[str, list[tuple[Module, Definition]]] = {}
        for path in self._sources:
            module = self.module(path)
            for definition in module.definitions.values() if module else ():
                found.setdefault(definition.own, []).append((module, definition))  # type: ignore[arg-type]
        return found

    def _links(self, module: Module, definition: Definition) -> list[str]:
        links = []
        for name in sorted(definition.used):
            target = self._target(module, name)
            if target is not None and target is not definition:
                links.append(f"{name}={target.own}")
        return links

    def _target(self, module: Module, name: str, depth: int = 0) -> Definition | None:
        """The definition that a name stands for; None for a module's or a clerk's."""
        if name in module.definitions:
            return module.definitions[name]
        first, _, rest = name.partition(".")
        if first not in module.imported or depth > 10:
            return None
        folder, original = module.imported[first]
        inner = f"{folder}.{original}" if original else folder
        place = self._path_of(inner)
        if place is None:
            place, wanted = self._path_of(folder), original
        else:
            wanted = rest.partition(".")[0]
        found = None if place is None or place in CLERKS else self.module(place)
        # Of a package the name may be passed on from where it is defined.
        return self._target(found, wanted, depth + 1) if found and wanted else None

    def _path_of(self, dotted: str) -> str | None:
        base = dotted.replace(".", "/")
        for path in (f"{base}.py", f"{base}/__init__.py"):
            if path in self._sources:
                return path
        return None


class Module:
    """One parsed module.

    Attributes:
        path: in the tree.
        definitions: by name.
        imported: names that imports of this project bring: name -> (module, name there or "").
    """

    def __init__(self, path: str, text: str) -> None:
        tree = ast.parse(text)
        self.path = path
        package = PurePosixPath(path).parent.parts
        # Imports inside functions bring names as those on top do.
        self._brings = dict([*_imports(tree, package), *_attached(tree, package)])
        self.imported = {
            name: (source, original)
            for name, (source, original) in self._brings.items()
            if source.partition(".")[0] in PACKAGES
        }
        body = [node for node in _Meaning().visit(tree).body if not _attaches(node)]
        groups = self._grouped(body)
        known = set(groups) | set(self.imported)
        self.definitions = {name: self._definition(nodes, known) for name, nodes in groups.items()}

    def _grouped(self, body: list[ast.stmt]) -> dict[str, list[ast.stmt]]:
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

    def _definition(self, nodes: list[ast.stmt], known: set[str]) -> Definition:
        names: set[str] = set()
        used: set[str] = set()
        for node in (inner for outer in nodes for inner in ast.walk(outer)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.value.id in self.imported:
                    used.add(f"{node.value.id}.{node.attr}")
            elif isinstance(node, ast.Name):
                names.add(node.id)
        used |= names & known
        sources = []
        for name in sorted(names & set(self._brings)):
            source, original = self._brings[name]
            if name not in self.imported:
                sources.append(f"{name}={source}:{original}")
            elif name != (last := original or source.rpartition(".")[2]) or hasattr(builtins, name):
                sources.append(f"{name}={last}")
        text = "\n".join([*(_dump(node) for node in nodes), *sources])
        return Definition(hashlib.sha256(text.encode()).hexdigest()[:16], frozenset(used))


@cache
def parsed(path: str, text: str) -> Module:
    """The module with this text, parsed once in a process."""
    return Module(path, text)


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
            source = source_of(node, package)
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


def loaded_code(since: float = math.inf) -> Code:
    """Fingerprints of the modules of this project that this process has loaded.

    Only what is loaded and computes can have changed a number: records do not go stale over a
    table's layout or a clearer error.

    Args:
        since: start of the run, in seconds since the epoch. A file edited after it is not the one
            that ran; its record is stale from the start.
    """
    files: dict[str, Path] = {}
    for name, module in sorted(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.partition(".")[0] in PACKAGES and file:
            folder = Path(*name.split("."))
            inside = folder / "__init__.py" if Path(file).stem == "__init__" else folder
            files[inside.with_suffix(".py").as_posix()] = Path(file)
    roots = {Path(str(file).removesuffix(path)): None for path, file in files.items()}
    code = Tree(Sources(*roots, ROOT)).code(path for path in files if path not in CLERKS)
    for path in code:
        if not files[path].is_file() or files[path].stat().st_mtime > since:
            code[path] = dict(EDITED)
    return code
