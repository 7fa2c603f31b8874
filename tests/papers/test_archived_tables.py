"""Archives of scale paper: every table is drawn from them, and settings are those of today."""

from __future__ import annotations

import importlib
import json
from typing import Any

import pytest

from common import ROOT
from common.errors import InputError
from common.results.evidence.archives import archive_path
from common.results.records import Results
from common.runs.programs import Programs

PAPERS = sorted(
    folder.name for folder in (ROOT / "papers").iterdir() if archive_path(folder, "paper").is_file()
)


@pytest.mark.parametrize("name", PAPERS)
def test_tables_are_drawn_from_the_archive(name: str) -> None:
    results = Results.from_archive(ROOT / "papers" / name, "paper")
    tables = importlib.import_module(f"papers.{name}.targets.tables").TABLES
    drawn = 0
    for title, draw in tables.items():
        try:
            drawn += len(draw(results).cells)
        except InputError as error:
            # An archive keeps numbers alone; and not every run has been archived.
            said = str(error)
            assert "not kept in an archive" in said or "no record" in said, (title, said)
    assert drawn > 0


@pytest.mark.parametrize("name", PAPERS)
def test_what_the_file_does_not_set_was_at_its_default(name: str) -> None:
    """A key that was taken out of the file since has left its value in the records.

    Records are compared with the file alone where they are read, without loading a program.
    """
    folder = ROOT / "papers" / name
    results, programs = Results.from_archive(folder, "paper"), Programs(folder)
    current = [item for item in results.stored if not item.changes.settings]
    assert current
    for item in current:  # the others are said to be stale
        record = item.record
        given = results.paper.settings(record.experiment, record.case, record.arm, record.scale)
        today = programs[record.program].settings.model_validate(given).model_dump(mode="json")
        assert not list(_differing(record.settings, today)), item.name


def _differing(recorded: Any, today: Any, key: str = "") -> Any:
    """Keys of a record whose values are others today; keys that came later are no difference."""
    if isinstance(recorded, dict) and isinstance(today, dict):
        for name, value in recorded.items():
            if name not in today:
                yield f"{key}.{name}"
            else:
                yield from _differing(value, today[name], f"{key}.{name}")
    elif isinstance(recorded, list) and isinstance(today, list) and len(recorded) == len(today):
        for place, (one, other) in enumerate(zip(recorded, today, strict=True)):
            yield from _differing(one, other, f"{key}[{place}]")
    elif json.dumps(recorded) != json.dumps(today):
        yield key
