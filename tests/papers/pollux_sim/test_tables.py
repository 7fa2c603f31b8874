"""Facts of Pollux's tables: units, the artifact's own numbers beside ours, nothing unpublished."""

from __future__ import annotations

import csv
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from common import ROOT
from common.experiments.schema import Scale, load_paper
from common.results.evidence.staleness import Changes
from common.results.records import Results, StoredRecord, read_published
from common.results.tables import Cell, Table
from papers.pollux_sim.applications.applications import APPLICATIONS
from papers.pollux_sim.targets.figures import FIGURES
from papers.pollux_sim.targets.tables import TABLES
from tests.common.results.example_results import make_record

FOLDER = ROOT / "papers" / "pollux_sim"
#: Rows of the tables of Figure 8 -> folders of the artifact's own summaries.
LOADS = {
    f"load {load:g}: {title}": f"{policy}-{load}"
    for load in (0.5, 1.0, 1.5, 2.0)
    for policy, title in (
        ("pollux", "Pollux"),
        ("optimus", "Optimus+Oracle+TunedJobs"),
        ("tiresias", "Tiresias+TunedJobs"),
    )
}
INTERVALS = {
    "30 s": "pollux-30s",
    "1 min": "pollux-1m",
    "2 min": "pollux-2m",
    "4 min": "pollux-4m",
    "8 min": "pollux-8m",
}
INTERFERENCES = {
    "avoided": "avoid",
    "no slowdown": "noavoid",
    "25 % slowdown": "inter25",
    "50 % slowdown": "inter50",
}
SECONDS = {"avg_jct_s": 7200.0, "p50_jct_s": 3600.0, "p99_jct_s": 36000.0, "makespan_s": 57600.0}


def make_metrics(seed: int) -> dict[str, float]:
    """Made-up metrics: one hour more average JCT for each seed."""
    return (
        SECONDS
        | {"avg_jct_s": SECONDS["avg_jct_s"] + 3600.0 * seed}
        | {"node_hours": 50.0, "mean_efficiency": 0.8, "restarts_per_job": 2.0}
        | {f"m0_{name}": 128.0 for name in APPLICATIONS}
        | {f"one_gpu_hours_{name}": 3.0 for name in APPLICATIONS}
        | {f"job_share_{name}_pct": 100 / 6 for name in APPLICATIONS}
        | {f"avg_jct_{name}_s": 60.0 for name in APPLICATIONS}
    )


@cache
def made_up(scale: Scale) -> Results:
    """A record of every run of the paper, with :func:`make_metrics`."""
    paper = load_paper(FOLDER)
    stored = [
        StoredRecord(make_record(key, {}, make_metrics(key.seed)), None, Changes((), False))
        for key in paper.runs(scale)
    ]
    return Results(paper, scale, stored, read_published(FOLDER))


def placed(table: Table, row: str, column: str) -> Cell:
    """The only cell of a row in a column."""
    (found,) = [cell for cell in table.cells if (cell.row, cell.column) == (row, column)]
    return found


def test_every_target_of_the_experiment_file_has_a_function_and_the_reverse() -> None:
    targets = load_paper(FOLDER).targets
    tables = {name for name, target in targets.items() if target.kind == "table"}
    assert tables == set(TABLES)
    assert set(targets) - tables == set(FIGURES)


def test_table2_is_in_hours_over_seeds_beside_the_papers_numbers() -> None:
    table = TABLES["table2"](made_up("laptop"))
    cell = placed(table, "Pollux (p=-1)", "JCT average")
    assert cell.mean == pytest.approx(3.0)
    assert cell.std == pytest.approx(1.0)
    assert (cell.n, cell.unit) == (3, "h")
    with (FOLDER / "published.csv").open(encoding="utf8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["table_or_figure"] == "table2"]
    published = {(row["row"], row["column"]): float(row["value"]) for row in rows}
    shown = {(cell.row, cell.column): cell.published for cell in table.cells}
    assert shown == {key: published[key] for key in shown}
    assert len(shown) == 21


@pytest.mark.parametrize(
    ("name", "rows", "folder"),
    [
        ("table_fig8a", LOADS, "results-jobload"),
        ("table_fig8b", INTERVALS, "results-period"),
        ("table_fig8c", INTERFERENCES, "results-inter"),
    ],
)
def test_every_bar_of_figure_8_stands_beside_the_artifacts_own_summary(
    name: str, rows: dict[str, str], folder: str, pollux_data: Path
) -> None:
    table = TABLES[name](made_up("paper"))
    assert table.rows == list(rows)
    for row, theirs in rows.items():
        summary = json.loads((pollux_data / folder / theirs / "summary.json").read_text())
        cell = placed(table, row, "avg JCT")
        assert cell.published == pytest.approx(summary["mean"] / 3600, rel=1e-3)
        assert cell.n == 8


def test_every_workload_stands_beside_the_artifacts_own_summary(pollux_data: Path) -> None:
    table = TABLES["table_workloads"](made_up("paper"))
    for policy, body in load_paper(FOLDER).experiments["job_load"].arms.items():
        path = pollux_data / "results-jobload" / f"{policy}-1.0" / "summary.json"
        for number, average in json.loads(path.read_text())["avgs"].items():
            found = placed(table, f"workload-{number.split('-')[-1]}", body.title)
            assert found.published == pytest.approx(average, rel=1e-3)


def test_a_workloads_number_is_of_one_record() -> None:
    table = TABLES["table_workloads"](made_up("paper"))
    found = placed(table, "workload-3", "Optimus+Oracle+TunedJobs")
    assert [str(runs) for runs in table.runs_behind(found)] == ["job_load/load1/optimus/seed3"]


def test_words_of_table1_are_the_papers_and_numbers_are_ours() -> None:
    table = TABLES["table1"](made_up("laptop"))
    assert table.describes("Dataset", "Dataset")
    assert not table.describes("M0", "M0")
    shares = [placed(table, row, "Frac. jobs") for row in table.rows]
    assert sum(cell.published or np.nan for cell in shares) == pytest.approx(100, abs=1)


@pytest.mark.parametrize("name", sorted(TABLES))
@pytest.mark.parametrize("scale", ["smoke", "laptop", "paper"])
def test_every_cell_that_a_run_stands_behind_has_a_number(name: str, scale: Scale) -> None:
    table = TABLES[name](made_up(scale))
    for column, metric in table.layout:
        if not table.describes(column, metric):
            assert all(table.cell(row, column, metric).n > 0 for row in table.rows)
