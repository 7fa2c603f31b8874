"""What the report shows of a table: empty cases are named, smaller ones are not set against it."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.experiments.schema import Scale
from common.results import table_files, tables
from common.results.records import Results
from common.results.report.table_view import NOT_RUN, WAITS_FOR_GPU, TableView, arrange
from common.results.tables import Cell, Table
from tests.common.results.example_results import write_paper, write_records

GPU_AT_PAPER = "    resources: {paper: {gpu: 1}}\n    arms:\n"


def paper_with(
    root: Path, scale: Scale, *, lacking: str = "", gpu: bool = False, smaller: str = ""
) -> Results:
    """Records of the made-up paper, but for one arm that lacks.

    Args:
        gpu: whether the experiment asks for one at scale paper.
        smaller: how a second case of the experiment is smaller than the paper's.
    """
    folder = write_paper(root)
    path = folder / "experiments.yaml"
    if gpu:
        path.write_text(path.read_text().replace("    arms:\n", GPU_AT_PAPER, 1))
    if smaller:
        case = f"    cases:\n      few: {{title: Few, at: [paper], smaller: {smaller}}}\n"
        path.write_text(path.read_text().replace("    cases:\n", case, 1))
    for path in write_records(folder, root / "results", scale):
        if path.parent.parent.name == lacking:
            path.unlink()
    return Results.load(folder, scale, root / "results", root=root, complete=False)


def costs(results: Results) -> Table:
    """Cost of each arm on both problems, in each case."""
    return Table(
        cells=[
            tables.cell(
                results,
                arm if case == "cities" else f"{case}: {arm}",
                problem,
                experiment="search",
                case=case,
                arm=arm,
                metric=f"{problem}_cost",
                label="cost",
                published=("Table 1", arm, problem, "cost"),
            )
            for case, arm in results.paper.experiments["search"].runs(results.scale)
            for problem in ("city", "grid")
        ]
    )


def viewed(results: Results, *more: Cell) -> TableView:
    made = tables.build(costs, results, "table1")
    return arrange(made.model_copy(update={"cells": [*made.cells, *more]}), results)


def shown(found: TableView) -> list[tuple[str, list[str]]]:
    return [(part.smaller, part.table.rows) for part in found.parts]


def test_a_row_that_was_not_run_is_named_and_its_published_number_kept(tmp_path: Path) -> None:
    found = viewed(paper_with(tmp_path, "paper", lacking="fast"))
    assert shown(found) == [("", ["slow", "greedy"])]
    assert found.not_run == {NOT_RUN: ["fast"]}
    assert found.published is not None
    assert [cell.published for cell in found.published.cells] == [14.1]


def test_the_csv_keeps_the_row_and_names_no_record_behind_it(tmp_path: Path) -> None:
    made = tables.build(costs, paper_with(tmp_path, "paper", lacking="fast"), "table1")
    lines = [line for line in table_files.to_csv(made).splitlines() if ",fast," in line]
    assert len(lines) == 2
    assert not any("search/cities/fast" in line for line in lines)


def test_it_waits_for_a_gpu_where_its_experiment_asks_for_one(tmp_path: Path) -> None:
    found = viewed(paper_with(tmp_path, "paper", lacking="fast", gpu=True))
    assert found.not_run == {WAITS_FOR_GPU: ["fast"]}


def test_a_column_that_was_not_run_is_named_too(tmp_path: Path) -> None:
    town = Cell(row="slow", column="town", metric="cost", published=3, published_text="3")
    found = viewed(paper_with(tmp_path, "paper"), town)
    assert found.not_run == {NOT_RUN: ["town"]}
    assert ("town", "cost") not in found.parts[0].table.layout


def test_the_papers_words_stay_for_nothing_could_stand_beside_them(tmp_path: Path) -> None:
    words = Cell(row="model", column="city", metric="cost", published_text="a ring")
    found = viewed(paper_with(tmp_path, "paper"), words)
    assert found.not_run == {}
    assert found.parts[0].table.rows[-1] == "model"


@pytest.mark.parametrize(("scale", "said"), [("paper", ""), ("laptop", "scale laptop")])
def test_what_ran_at_another_scale_is_smaller(tmp_path: Path, scale: Scale, said: str) -> None:
    found = viewed(paper_with(tmp_path, scale))
    assert [part.smaller for part in found.parts] == [said]


def test_cases_of_the_papers_size_come_before_smaller_ones(tmp_path: Path) -> None:
    found = viewed(paper_with(tmp_path, "paper", smaller="ten of twenty cities"))
    arms = ["slow", "fast", "greedy"]
    small = [f"few: {arm}" for arm in arms]
    assert shown(found) == [("", arms), ("ten of twenty cities", small)]


def test_of_a_smaller_case_no_difference_is_taken_in_any_file(tmp_path: Path) -> None:
    results = paper_with(tmp_path, "paper", smaller="ten of twenty cities")
    made = tables.build(costs, results, "table1")
    assert made.cell("slow", "city", "cost").difference_text.startswith("−0.25")
    assert made.cell("few: slow", "city", "cost").difference is None
    assert "so no difference is taken: ten of twenty cities." in table_files.to_markdown(made)
    (line,) = [line for line in table_files.to_csv(made).splitlines() if ",few: slow,city," in line]
    assert ",ten of twenty cities," in line


def test_a_number_that_is_computed_of_records_is_as_small_as_those(tmp_path: Path) -> None:
    def gain(results: Results) -> Table:
        few, whole = (
            results.values("search", "slow", "city_cost", case) for case in ("few", "cities")
        )
        made = tables.make_cell(results, "gain", "city", few - whole, label="cost")
        return Table(cells=[made.model_copy(update={"published_text": "3", "published": 3.0})])

    results = paper_with(tmp_path, "paper", smaller="ten of twenty cities")
    found = arrange(tables.build(gain, results, "table1"), results)
    assert shown(found) == [("ten of twenty cities", ["gain"])]


def test_rows_that_share_no_column_stand_below_one_another(tmp_path: Path) -> None:
    text = [
        Cell(row=row, column=column, metric="score", mean=1.0, n=1)
        for row, column in (("a", "words"), ("b", "words"), ("b", "letters"))
    ]
    empty = Cell(row="a", column="city", metric="cost")
    found = viewed(paper_with(tmp_path, "laptop"), *text, empty)
    assert shown(found) == [
        ("scale laptop", ["slow", "fast", "greedy"]),
        ("scale laptop", ["a", "b"]),
    ]
    assert found.parts[1].table.layout == [("words", "score"), ("letters", "score")]
