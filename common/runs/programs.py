"""Programs: what ``program:`` of an experiment means."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from common.experiments.settings import Settings
from common.runs.run import Run


@dataclass(frozen=True)
class Program:
    """Validated settings in, metrics out."""

    settings: type[Settings]
    run: Callable[[Any, Run], Mapping[str, float]]


class Programs(Mapping[str, Program]):
    """A paper's programs: the ``PROGRAM`` of each module of its ``experiments/``, by its name.

    A module is imported when it is asked for. So a run loads, and its record names, only code that
    it uses: a change to one experiment makes no other's records stale.

    Args:
        folder: the paper's.
    """

    def __init__(self, folder: Path) -> None:
        self._package = f"papers.{folder.name}.experiments"
        self._names = sorted(
            path.stem
            for path in (folder / "experiments").glob("*.py")
            if not path.name.startswith("_")
        )

    def __getitem__(self, name: str) -> Program:
        if name not in self._names:
            raise KeyError(name)
        program: Program = import_module(f"{self._package}.{name}").PROGRAM
        return program

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
