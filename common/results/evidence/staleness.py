"""What has changed since a record was made: definitions of its code, its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import ROOT
from common.experiments.schema import Paper
from common.runs.fingerprint import Sources, Tree
from common.runs.record import Record


@dataclass(frozen=True)
class Changes:
    """What has changed since a run: definitions of its code, and whether its settings have."""

    code: tuple[str, ...]
    settings: bool


def changes(record: Record, paper: Paper, tree: Tree) -> Changes:
    """What has changed since ``record`` was made."""
    same = paper.has(record.key)
    same = same and paper.experiments[record.experiment].program == record.program
    # What was set by hand stands nowhere in the file.
    same = same and not any(word.startswith("--set") for word in record.provenance.command)
    if same:
        wanted = paper.settings(record.experiment, record.case, record.arm, record.scale)
        before = [key for keys in paper.needed(record.key).values() for key in keys]
        same = _contains(record.settings, wanted)
        same = same and record.needed.keys() <= {key.folder.as_posix() for key in before}
    return Changes(tuple(_changed(record, tree)), not same)


def _changed(record: Record, tree: Tree) -> list[str]:
    """Definitions of a record's code that have changed, but for those of other programs.

    Runs of old loaded all programs of their paper. A run of today loads that of its experiment, so
    what this one does not import cannot change a number of it.
    """
    code, changed = record.provenance.code, tree.changed(record.provenance.code)
    paths = {item.partition(": ")[0] for item in changed}
    places = tree.places({path: code[path] for path in paths})
    programs = f"papers/{record.paper}/experiments/"
    if not any(place.startswith(programs) for place in places.values()):
        return changed
    reached = tree.reached(f"{programs}{record.program}.py")
    others = {
        path
        for path, place in places.items()
        if place.startswith(programs) and place not in reached and tree.module(place)
    }
    return [item for item in changed if item.partition(": ")[0] not in others]


def read_tree(root: Path) -> Tree:
    """Definitions of the checkout at ``root``, and of this one's ``common`` where it has none."""
    return Tree(Sources(root, ROOT))


def _contains(recorded: Any, wanted: Any) -> bool:
    """Whether validated settings agree with raw ones: defaults may be added, text is parsed."""
    if isinstance(wanted, Mapping):
        return isinstance(recorded, Mapping) and all(
            key in recorded and _contains(recorded[key], value) for key, value in wanted.items()
        )
    if isinstance(wanted, list | tuple):
        same = isinstance(recorded, list) and len(recorded) == len(wanted)
        return same and all(map(_contains, recorded, wanted))
    if isinstance(wanted, str) and isinstance(recorded, int | float):
        try:  # YAML reads 1e-4 as text; pydantic makes it a number
            return float(wanted) == recorded
        except ValueError:
            return False
    return bool(recorded == wanted)
