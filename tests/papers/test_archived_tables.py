"""Every table of every paper, drawn from the archive of its runs at scale paper."""

from __future__ import annotations

import importlib

import pytest

from common import ROOT
from common.errors import InputError
from common.results.evidence.archives import archive_path
from common.results.records import Results

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
