"""Repetitions of recorded runs: whether they gave the same, and what they vouch for.

A record whose code has changed since is stale, unless runs of its experiment were repeated with
today's code and gave the same numbers (``python -m common.results recertify``). A repeat vouches
for a record of its case for which no definition has changed but those that had changed for the
repeated one too, if it is of the same arm or ran all modules that have changed; and only as long as
the code that it ran is that of the checkout.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal

from common.errors import InputError
from common.experiments.documents import parse_json
from common.experiments.settings import Settings, validated
from common.runs.files import write_atomically
from common.runs.fingerprint import Code, Tree
from common.runs.record import Record

#: Largest relative difference of a metric that another kind of machine may make: its libraries
#: choose other kernels, which add up in another order.
TOLERANCE: Final = 1e-3

#: "equal": to the record's last bit. "equal here": to what the record's own commit gives when it is
#: run beside today's code, on a machine that is not the record's.
Outcome = Literal["equal", "equal here", "within tolerance", "different"]


class Repeat(Settings):
    """One run that was made again, and what came of it.

    ``changed`` are the definitions that had changed since the record; ``code`` is what the repeat
    ran; ``of`` is when the repeated run was started.
    """

    experiment: str
    case: str
    arm: str
    seed: int
    of: str
    changed: list[str]
    code: Code
    outcome: Outcome
    differences: list[str]
    tolerance: float
    git_commit: str
    cpu: str
    instructions: str
    started_at: str
    cpu_s: float

    @property
    def place(self) -> tuple[str, str, str, int]:
        """Which run was repeated."""
        return self.experiment, self.case, self.arm, self.seed

    @property
    def agrees(self) -> bool:
        """Whether the numbers are the record's."""
        return self.outcome != "different"

    def speaks_of(self, record: Record, changed: Sequence[str], tree: Tree) -> bool:
        """Whether it tried all that has changed for ``record``, on the same case.

        A run of another case may have loaded the same modules and read no line of this one's data.
        """
        return (
            bool(changed)
            and (self.experiment, self.case) == (record.experiment, record.case)
            and set(changed) <= set(self.changed)
            and (self.arm == record.arm or self._ran_all(record.provenance.code, changed, tree))
        )

    def _ran_all(self, recorded: Code, changed: Sequence[str], tree: Tree) -> bool:
        """Whether it ran all modules of what has changed, wherever they lie by now."""
        modules = {item.partition(": ")[0] for item in changed}
        if modules <= self.code.keys():
            return True
        now = tree.places({path: recorded[path] for path in modules})
        return set(now.values()) <= set(tree.places(self.code).values())


class Repeats:
    """Repeats whose code is that of a checkout."""

    def __init__(self, repeats: Iterable[Repeat], tree: Tree) -> None:
        self._tree = tree
        self.present = [item for item in repeats if not tree.changed(item.code)]

    def of(self, record: Record, changed: Sequence[str]) -> tuple[Repeat, ...]:
        """Repeats that speak of a record for which ``changed`` has changed."""
        return tuple(item for item in self.present if item.speaks_of(record, changed, self._tree))


def compare(record: Record, again: Record, timed: Sequence[str]) -> tuple[Outcome, list[str]]:
    """Whether ``again`` repeats ``record``; what differs, one line each.

    On the same kind of machine (processor and its instructions) all must be equal to the last bit.
    On another one, or one whose instructions the record does not tell, metrics may differ by
    :data:`TOLERANCE`; bytes of artifacts can then not be compared.

    Args:
        timed: patterns of metrics and artifacts that measure the machine; they are not compared.
    """
    here, there = again.provenance, record.provenance
    alike = (here.cpu, here.instructions) == (there.cpu, there.instructions)
    fixed = []
    if not _kept(record.settings, again.settings):
        fixed.append("settings: other values")
    if record.data != again.data:
        fixed.append("data: other files")
    metrics, far = [], []
    for name in sorted(record.metrics.keys() | again.metrics.keys()):
        one, other = record.metrics.get(name), again.metrics.get(name)
        if one == other or any(fnmatch(name, pattern) for pattern in timed):
            continue
        line = f"{name}: {one} was recorded, {other} now"
        metrics.append(line)
        if one is None or other is None or abs(one - other) > TOLERANCE * max(abs(one), abs(other)):
            far.append(line)
    files = [
        f"{name}: other bytes"
        for name in sorted(record.artifacts.keys() | again.artifacts.keys())
        if record.artifacts.get(name) != again.artifacts.get(name)
        and not any(fnmatch(name, pattern) for pattern in timed)
    ]
    needed = [
        f"{name}: other bytes"
        for name in sorted(record.needed.keys() | again.needed.keys())
        if record.needed.get(name) != again.needed.get(name)
    ]
    found = [*fixed, *metrics, *files, *needed]
    if not found:
        return "equal", []
    # Other bytes alone are no rounding of another machine: some number must show it.
    if fixed or far or alike or not metrics:
        return "different", found
    return "within tolerance", found


def _kept(recorded: Any, again: Any) -> bool:
    """Whether recorded settings are as they were; a setting that is new has its default."""
    if isinstance(recorded, dict) and isinstance(again, dict):
        return all(key in again and _kept(value, again[key]) for key, value in recorded.items())
    return bool(recorded == again)


def read_repeats(path: Path, tree: Tree) -> Repeats:
    """The repeats in ``path`` that ran what ``tree`` holds; none where there is no file.

    Raises:
        InputError: it is not a file of repeats.
    """
    return Repeats(_read(path), tree)


def add_repeat(path: Path, repeat: Repeat, tree: Tree) -> None:
    """Add ``repeat`` to the file, atomically; what speaks of other code than today's leaves it."""
    kept = [item for item in read_repeats(path, tree).present if item.place != repeat.place]
    items = [item.model_dump(mode="json") for item in [*kept, repeat]]
    items.sort(key=lambda item: tuple(item[name] for name in ("experiment", "case", "arm", "seed")))
    codes = pooled(items, "code")
    lines = []
    for name, values in (("code", codes), ("repeats", items)):
        texts = ",\n".join(json.dumps(value, ensure_ascii=False) for value in values)
        lines.append(f'"{name}": [\n{texts}\n]')
    write_atomically(path, "{" + ",\n".join(lines) + "}\n")


def pooled(items: Sequence[dict[str, Any]], key: str) -> list[Any]:
    """The distinct values that ``items`` have under ``key``; each keeps the place of its own."""
    known: dict[str, int] = {}
    values: list[Any] = []
    for item in items:
        text = json.dumps(item[key], sort_keys=True)
        if text not in known:
            known[text] = len(values)
            values.append(item[key])
        item[key] = known[text]
    return values


def _read(path: Path) -> list[Repeat]:
    try:
        status = path.stat()
    except FileNotFoundError:
        return []
    return _read_once(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=16)
def _read_once(path: Path, changed_ns: int, size: int) -> list[Repeat]:
    try:
        data = parse_json(path.read_text(encoding="utf8"))
        codes, items = dict(enumerate(data["code"])), data["repeats"]
        for item in items:
            item["code"] = codes[item["code"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a file of repeated runs ({error})") from None
    return [validated(Repeat, item, str(path)) for item in items]
