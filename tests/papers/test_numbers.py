"""Every number of ours in a table, of every paper, leads to the records it was computed from."""

from __future__ import annotations

from importlib import import_module

import pytest

from common import ROOT
from common.errors import InputError
from common.experiments.schema import find_papers, load_paper
from common.results.evidence.archives import archive_path
from common.results.records import Results
from common.results.tables import build

FOLDERS = {folder.name: folder for folder in find_papers(ROOT)}
#: Tables of settings, whether they were run or not.
OF_SETTINGS = {("logra", "table2")}


@pytest.mark.parametrize("paper", FOLDERS)
def test_every_number_of_ours_names_records_that_there_are(paper: str) -> None:
    folder = FOLDERS[paper]
    if not archive_path(folder, "paper").is_file():
        pytest.skip("no archive")
    shown = 0
    for target, function in import_module(f"papers.{paper}.targets.tables").TABLES.items():
        if (paper, target) in OF_SETTINGS:
            continue
        needed = load_paper(folder).targets[target].experiments
        results = Results.from_archive(folder, "paper", needed)
        kept = {item.name for item in results.stored}
        if not kept:
            continue
        try:
            table = build(function, results, target)
        except InputError:
            continue  # it needs what no archive has
        for cell in table.cells:
            behind = " ".join(map(str, table.runs_behind(cell))).split()
            assert bool(behind) == (cell.mean is not None), (target, cell.row, cell.column)
            assert set(behind) <= kept
            shown += len(behind) > 0
    assert shown > 3
