"""What tables, listings and figures share: their place in the paper, what must be said, files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Self, TypeVar

from pydantic import Field

from common.experiments.documents import read_json
from common.experiments.settings import Settings, validated
from common.results.lineage import Runs, list_runs
from common.results.records import Context, Results
from common.runs.files import write_atomically

NOT_COMPARABLE: Final = (
    "Made at scale {scale}: data, model and schedule are smaller than the paper's, so these numbers"
    " are not comparable with the published ones in absolute terms."
)

Read = TypeVar("Read", bound=Settings)
Built = TypeVar("Built", bound="Target")


class Target(Settings):
    """A table or a listing; ``paper`` and what follows is filled in by :meth:`placed`."""

    notes: list[str] = Field([])
    paper: str = ""
    target: str = ""
    title: str = ""
    source: str = ""
    context: Context | None = None
    runs: list[Runs] = Field([], description="records that were read to make it")

    def placed(self, results: Results, target: str) -> Self:
        """It with its place in the paper and what it was made from."""
        body = results.paper.targets[target]
        return self.model_copy(
            update={
                "paper": results.paper.paper,
                "target": target,
                "title": self.title or body.title,
                "source": body.source,
                "notes": [*([body.note] if body.note else []), *self.notes],
                "context": results.context(),
            }
        )

    def write(self, folder: Path, texts: Mapping[str, str]) -> list[Path]:
        """Write ``<target>.<suffix>`` with each text, ``<target>.json`` last; returns paths."""
        own = json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
        written = []
        for suffix, text in {**texts, "json": own}.items():
            written.append(folder / f"{self.target}.{suffix}")
            write_atomically(written[-1], text)
        return written


def built(function: Callable[[Results], Built], results: Results, target: str) -> Built:
    """What a paper's function makes of ``results``: its place in the paper, the records it read."""
    with results.reading() as read:
        made = function(results)
    return made.placed(results, target).model_copy(update={"runs": list_runs(read)})


def read_as(kind: type[Read], path: Path, name: str) -> Read:
    """What a JSON file holds. Raises InputError if that is not ``name``, of this ``kind``."""
    return validated(kind, read_json(path, name), str(path))


def context_notes(context: Context, compared: bool) -> list[str]:
    """Scale, data, device, seeds; that numbers do not compare; which records are stale."""
    seeds = len(context.seeds)
    notes = [
        f"Scale: {context.scale}. Data: {', '.join(context.data) or 'none'}."
        f" Device: {', '.join(context.devices) or 'none'}."
        f" {seeds} {'seed' if seeds == 1 else 'seeds'}; ours is mean ± standard deviation"
        f" (number of seeds)."
    ]
    if compared and context.scale != "paper":
        notes.append(NOT_COMPARABLE.format(scale=context.scale))
    if context.recertified:
        notes.append(
            "Recertified: the code has changed since, and runs repeated with today's gave the same:"
            f" {'; '.join(context.recertified)}."
        )
    if context.stale:
        shown = ", ".join(context.stale[:3]) + (", …" if len(context.stale) > 3 else "")
        notes.append(
            f"STALE: {len(context.stale)} of {context.runs} records were made with other code or"
            f" settings than the present ones: {shown}."
        )
    return notes
