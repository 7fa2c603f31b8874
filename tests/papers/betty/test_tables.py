"""Facts of Betty's tables and figures: published numbers beside ours, drawings of the code."""

from __future__ import annotations

from functools import cache

import matplotlib.pyplot as plt
import pytest

from common import ROOT
from common.experiments.schema import Scale, load_paper
from common.results.records import Results, StoredRecord, read_published
from common.results.tables import Cell, Table
from papers.betty.graph import DataflowGraph
from papers.betty.targets.drawing import by_level, draw_graph, imports, level
from papers.betty.targets.figures import FIGURES, PARTS
from papers.betty.targets.tables import TABLES
from tests.common.results.example_results import make_record

FOLDER = ROOT / "papers" / "betty"
METRICS = {
    "accuracy_pct": 50.0,
    "best_accuracy_pct": 60.0,
    "vote_accuracy_pct": 30.0,
    "saved_bytes": 2.0**20,
    "memory_bytes": 2.0**30,
    "gpu_bytes": 2.0**30,
    "train_s": 60.0,
    "start_loss": 0.7,
    "final_loss": 0.4,
    "parameters": 3.3e6,
}
LINE = DataflowGraph(["a", "b", "c"], {"c": ["a"]}, {"a": ["b"], "b": ["c"]})


@cache
def made_up(scale: Scale) -> Results:
    """A record of every run of the paper: ``METRICS``, accuracies one point higher a seed."""
    paper = load_paper(FOLDER)
    stored = [
        StoredRecord(
            make_record(key, {}, METRICS | {"accuracy_pct": METRICS["accuracy_pct"] + key.seed}),
            None,
            "",
        )
        for key in paper.runs(scale)
    ]
    return Results(paper, scale, stored, read_published(FOLDER))


def placed(table: Table, row: str, column: str) -> Cell:
    """The only cell of a row in a column."""
    (found,) = [cell for cell in table.cells if (cell.row, cell.column) == (row, column)]
    return found


def test_table1_sets_the_published_finite_difference_beside_the_nudge() -> None:
    table = TABLES["table1"](made_up("laptop"))
    nudge = placed(table, "AID-FD, step=1, nudge", "IF 50")
    assert (nudge.mean, nudge.n, nudge.published, nudge.published_std) == (52.0, 5, 81.15, 0.25)
    restored = placed(table, "AID-FD, step=1, restored", "IF 50")
    assert (restored.mean, restored.published) == (52.0, None)
    memory = placed(table, "AID-CG, step=1", "Memory")
    assert (memory.mean, memory.unit, memory.published) == (1.0, "MiB", 2435.0)
    assert placed(table, "AID-CG, step=1", "Time").mean == 1.0


def test_table1_has_both_networks_at_paper_scale_and_the_best_accuracy_as_published() -> None:
    table = TABLES["table1"](made_up("paper"))
    arms = load_paper(FOLDER).experiments["meta_weight_net"].arms.values()
    assert table.rows == [arm.title for arm in arms]
    assert placed(table, "ITD-RMAD, step=1", "IF 200").mean == 60.0
    assert placed(table, "ITD-RMAD, step=1", "IF 200, small network").published == 71.96
    assert list(dict.fromkeys(column for column, _ in table.layout)) == [
        *("IF 200", "IF 100", "IF 50", "Memory", "Time"),
        *("IF 200, small network", "IF 100, small network", "IF 50, small network"),
    ]
    small = {cell.row for cell in table.cells if cell.column == "IF 50, small network"}
    assert small == set(table.rows)


@pytest.mark.parametrize(
    ("name", "scale", "count"),
    [
        ("table1", "laptop", 15),
        ("table2", "laptop", 5),
        ("table2", "paper", 15),
        ("table3", "paper", 21),
        ("table4", "paper", 12),
        ("table_features", "laptop", 2),
        ("table_imaml", "paper", 5),
        ("table_nas", "paper", 4),
    ],
)
def test_every_published_number_that_a_table_names_is_found(
    name: str, scale: Scale, count: int
) -> None:
    cells = TABLES[name](made_up(scale)).cells
    assert sum(bool(cell.published_text) for cell in cells) == count


def test_the_vote_of_table3_is_that_of_the_labels_not_of_the_network() -> None:
    table = TABLES["table3"](made_up("laptop"))
    assert placed(table, "Majority vote (paper: Snorkel)", "digits").mean == 30.0
    assert placed(table, "Weak labels", "digits").mean == 51.0


def test_table2_has_bert_on_sst_at_paper_scale_alone() -> None:
    table = TABLES["table2"](made_up("paper"))
    assert table.layout == [
        *(("Digits, IF 20", "Accuracy"), ("Memory", ""), ("Time", "")),
        *(("SST, IF 20", metric) for metric in ("Accuracy", "GPU memory", "Time")),
        ("SST, IF 50", "Accuracy"),
    ]
    text = placed(table, "MWN, fp16", "SST, IF 50")
    assert (text.mean, text.published, text.published_std) == (60.0, 89.79, 0.65)
    memory = table.cell("Baseline", "SST, IF 20", "GPU memory")
    assert (memory.mean, memory.unit, memory.published) == (1024.0, "MiB", 8319.0)
    assert placed(table, "Baseline", "Memory").mean == 1.0
    assert {cell.column for cell in TABLES["table2"](made_up("laptop")).cells} == {
        "Digits, IF 20",
        "Memory",
        "Time",
    }


def test_table3_has_every_set_with_both_kinds_of_features() -> None:
    table = TABLES["table3"](made_up("paper"))
    names = ["TREC", "SemEval", "YouTube", "SMS"]
    assert list(dict.fromkeys(cell.column for cell in table.cells)) == [
        *names,
        *(f"{name}, BERT" for name in names),
    ]
    assert placed(table, "+RWT&CRT", "SemEval, BERT").published == 84.34


def test_table4_shows_the_best_accuracy_on_office_home_alone() -> None:
    table = TABLES["table4"](made_up("paper"))
    home = placed(table, "+RWT, three levels", "Cl→Ar")
    assert (home.mean, home.published, home.published_std) == (60.0, 67.76, 0.83)
    caltech = placed(table, "+RWT, three levels", "Caltech→Amazon")
    assert (caltech.mean, caltech.published) == (52.0, None)
    memory = placed(table, "Baseline, two levels", "Memory")
    assert (memory.mean, memory.unit, memory.published) == (1.0, "GiB", 3.8)
    time = placed(table, "Baseline, two levels", "Time")
    assert (time.mean, time.unit, time.published) == (60.0, "s", 290.0)
    assert [cell.column for cell in TABLES["table4"](made_up("laptop")).cells] == ["digits"] * 2


def test_table4_shows_a_dash_for_runs_that_an_archive_lacks() -> None:
    full = made_up("paper")
    kept = [item for item in full.records("domain_adaptation") if "home" not in item.record.case]
    table = TABLES["table4"](Results(full.paper, "paper", kept, full.published))
    lacking = placed(table, "+RWT, three levels", "Rw→Cl")
    assert (lacking.n, lacking.ours_text, lacking.published) == (0, "—", 69.75)
    assert placed(table, "+RWT, three levels", "Webcam→DSLR").n == 5


@pytest.mark.parametrize("scale", ["smoke", "laptop", "paper"])
def test_every_table_can_be_made_at_every_scale(scale: Scale) -> None:
    results = made_up(scale)
    for function in TABLES.values():
        assert all(cell.n for cell in function(results).cells)


def test_a_problem_stands_above_those_whose_optimum_it_reads() -> None:
    levels = {name: level(LINE, name) for name in LINE.names}
    assert levels == {"a": 0, "b": 1, "c": 2}
    places = by_level({"a": 0, "b": 0, "c": 1})
    assert places["c"] == ((places["a"][0] + places["b"][0]) / 2, 1.0)


def test_a_drawing_has_an_arrow_for_each_edge_and_a_box_for_each_problem() -> None:
    figure, ax = plt.subplots()
    draw_graph(ax, LINE)
    texts = [text.get_text() for text in ax.texts]
    assert sorted(filter(None, texts)) == ["a", "b", "c"]
    assert texts.count("") == 3
    plt.close(figure)


def test_the_architecture_is_read_from_the_imports() -> None:
    uses = imports(PARTS)
    assert {"problems", "graph", "configs"} <= set(uses["engine"])
    assert "hypergradient" in uses["problems"]
    assert "engine" not in uses["problems"]
    assert uses["configs"] == []


def test_figures_that_need_no_artifact_show_what_there_is() -> None:
    for scale, methods in (("smoke", 6), ("laptop", 9)):
        made = FIGURES["figure_nudge"](made_up(scale))  # type: ignore[arg-type]
        assert len(made.figure.axes[0].get_yticks()) == methods
        plt.close(made.figure)
