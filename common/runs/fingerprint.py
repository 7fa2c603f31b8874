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

import json
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Final

from common import ROOT
from common.runs.definitions import PACKAGES, PUBLIC, STATEMENTS, Definition, Module, read_module
from common.runs.imports import list_imports

#: Path of a module in the tree -> definition -> its fingerprint, then ``name=fingerprint`` of each
#: other definition of this project that it uses, of its own module or of another one.
Code = dict[str, dict[str, str]]

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
        "runs/definitions",
        "runs/files",
        "runs/fingerprint",
        "runs/imports",
        "runs/machine",
        "runs/programs",
        "runs/record",
        "runs/run",
    )
)


class Sources(Mapping[str, str]):
    """Text of every module of the project by its path in the tree, read when asked for.

    Args:
        roots: folders that hold ``common`` or ``papers``; of a path in several, the first counts.
    """

    def __init__(self, *roots: Path) -> None:
        self._roots = roots

    def file(self, path: object) -> Path | None:
        """Where the text of a module stands; None if there is none."""
        files = (root / str(path) for root in self._roots)
        return next(filter(Path.is_file, files), None)

    def __getitem__(self, path: str) -> str:
        if (file := self.file(path)) is None:
            raise KeyError(path)
        return file.read_text(encoding="utf8")

    def __contains__(self, path: object) -> bool:
        return self.file(path) is not None

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
        self._paths: dict[str, str | None] = {}
        self._reached: dict[str, frozenset[str]] = {}
        self._neighbours: dict[str, frozenset[str]] = {}

    def module(self, path: str) -> Module | None:
        """The module at ``path``, or None if there is none that parses."""
        if path not in self._modules:
            try:
                file = self._sources.file(path) if isinstance(self._sources, Sources) else None
                self._modules[path] = read_module(path, self._sources[path], file)
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

    def reached(self, path: str) -> frozenset[str]:
        """The module at ``path``, all that it imports, wherever in it, and so on.

        Of a package all count that it brings when asked for. What is imported by a name that is
        computed is not seen.
        """
        if path not in self._reached:
            found: set[str] = set()
            pending = [path]
            while pending:
                if (here := pending.pop()) not in found and self.module(here):
                    found.add(here)
                    pending += self._imported_by(here)
            self._reached[path] = frozenset(found)
        return self._reached[path]

    def _imported_by(self, path: str) -> frozenset[str]:
        """Modules of the tree that the one at ``path`` names in its imports, and their packages."""
        if path not in self._neighbours:
            module = self.module(path)
            assert module is not None
            names = {".".join(filter(None, source)) for source in module.imported.values()}
            names |= set(list_imports(self._sources[path], Path(path).parent.parts))
            parts = [name.split(".") for name in names]
            above = {".".join(each[:count]) for each in parts for count in range(1, len(each) + 1)}
            self._neighbours[path] = frozenset(filter(None, map(self._locate, above)))
        return self._neighbours[path]

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
        place = self._locate(inner)
        if place is None:
            place, wanted = self._locate(folder), original
        else:
            wanted = rest.partition(".")[0]
        found = None if place is None or place in CLERKS else self.module(place)
        # Of a package the name may be passed on from where it is defined.
        return self._target(found, wanted, depth + 1) if found and wanted else None

    def _locate(self, dotted: str) -> str | None:
        if dotted not in self._paths:
            base = dotted.replace(".", "/")
            paths = (f"{base}.py", f"{base}/__init__.py")
            self._paths[dotted] = next((path for path in paths if path in self._sources), None)
        return self._paths[dotted]


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
