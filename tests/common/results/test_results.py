"""Facts of records, tables, figures, coverage, benchmarks and their command line."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from common.errors import InputError
from common.experiments.documents import read_yaml
from common.experiments.schema import Paper, load_paper
from common.experiments.settings import validated
from common.results import figures, table_files, tables
from common.results.__main__ import main
from common.results.benchmarks import BenchmarkRow, compare, memory_row, score_row
from common.results.evidence.repeats import Repeat
from common.results.evidence.staleness import changes
from common.results.figures import FigureWithCaption
from common.results.lineage import list_runs
from common.results.records import Confidence, Context, Results, read_published
from common.results.report.report import data_uri
from common.results.report.summary import coverage
from common.results.tables import Cell, Table
from common.results.targets import context_notes
from common.runs.fingerprint import Tree
from common.runs.record import read_record
from tests.common.results.example_results import COSTS, write_paper, write_records

CONTEXT = Context(
    scale="laptop",
    data=["x (real)"],
    devices=["cpu"],
    seeds=[0],
    runs=1,
    newest="",
    recertified=[],
    stale=[],
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with the made-up paper and its records at laptop scale."""
    write_records(write_paper(tmp_path), tmp_path / "results")
    return tmp_path


def load(root: Path) -> Results:
    return Results.load(root / "papers/annealing", "laptop", root / "results", root=root)


def cell_of(results: Results, arm: str, problem: str) -> Cell:
    return tables.cell(
        results,
        row=arm,
        column=problem,
        experiment="search",
        arm=arm,
        metric=f"{problem}_cost",
        published=("Table 1", arm, problem, "cost"),
    )


def test_values_are_in_the_order_of_seeds_and_the_frame_holds_every_metric(root: Path) -> None:
    results = load(root)
    expected = COSTS["slow"][0] + 0.25 * np.arange(4)
    np.testing.assert_allclose(results.values("search", "slow", "city_cost"), expected)
    assert len(results.frame) == 3 * 4 * 2
    assert not results.frame["real"].any()


def test_a_cell_is_mean_and_sample_deviation_in_the_unit_asked_for(root: Path) -> None:
    cell = tables.cell(
        load(root), "r", "c", experiment="search", arm="slow", metric="city_cost", factor=10
    )
    assert cell.mean == pytest.approx(10 * (12 + 0.25 * 1.5))
    assert cell.std == pytest.approx(2.5 * np.sqrt(5 / 3))
    assert cell.n == 4


def test_a_cell_names_the_records_that_it_is_of(root: Path) -> None:
    results = load(root)
    found = cell_of(results, "slow", "city")
    named = " ".join(f"search/cities/slow/seed{seed}" for seed in range(4))
    assert [str(runs) for runs in found.runs] == [named]
    assert "search/cities/slow/seed3" in table_files.to_csv(Table(cells=[found]))


def test_a_cell_without_records_of_its_own_is_of_what_its_table_read(root: Path) -> None:
    def table1(results: Results) -> Table:
        slow, fast = (results.values("search", arm, "city_cost") for arm in ("slow", "fast"))
        gain = tables.make_cell(results, "gain", "city", fast - slow, label="cost")
        return Table(cells=[gain, Cell(row="paper", column="city", metric="cost")])

    results = load(root)
    results.values("search", "greedy", "city_cost")  # read before, for something else
    made = tables.build(table1, results, "table1")
    gain, empty = made.cells
    assert [runs.arm for runs in made.runs_behind(gain)] == ["slow", "fast"]
    assert made.runs_behind(empty) == []


def test_all_records_are_read_by_who_asks_for_all(root: Path) -> None:
    results = load(root)
    for ask in (lambda: results.frame, lambda: results.frame, lambda: results.stored):
        with results.reading() as read:
            ask()
        assert [len(runs.seeds) for runs in list_runs(read)] == [4, 4, 4]


def test_a_missing_run_is_named_with_the_command_that_makes_it(root: Path) -> None:
    path = root / "results/laptop/annealing/search/cities/fast/seed2/record.json"
    path.unlink()
    with pytest.raises(InputError, match=r"seed2/record.json.*train.py search .* --seed 2 "):
        load(root)


def test_a_record_under_another_runs_name_is_refused(root: Path) -> None:
    runs = root / "results/laptop/annealing/search/cities/slow"
    (runs / "seed0/record.json").write_bytes((runs / "seed1/record.json").read_bytes())
    with pytest.raises(InputError, match="another run"):
        load(root)


@pytest.mark.parametrize(
    ("experiment", "arm", "metric", "message"),
    [
        ("serch", "slow", "city_cost", "experiment 'serch'"),
        ("search", "slo", "city_cost", "no arm 'slo'; it has slow, fast, greedy"),
        ("search", "slow", "cost", "no metric 'cost'; it has city_cost, grid_cost"),
    ],
)
def test_an_unknown_name_is_refused_with_those_that_exist(
    root: Path, experiment: str, arm: str, metric: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        load(root).values(experiment, arm, metric)


def test_an_altered_artifact_is_refused(root: Path) -> None:
    first = load(root).records("search", "slow")[0]
    assert list(first.read_csv("curve.csv")["cost"]) == [20, 12]
    assert first.folder is not None
    (first.folder / "curve.csv").write_text("step,cost\n0,1\n", encoding="utf8")
    with pytest.raises(InputError, match="differs"):
        first.read_csv("curve.csv")
    with pytest.raises(InputError, match="no artifact 'x"):
        first.read_csv("x.csv")


def test_changed_settings_make_just_that_arm_stale(root: Path) -> None:
    assert not any(item.stale for item in load(root).stored)
    path = root / "papers/annealing/experiments.yaml"
    path.write_text(path.read_text().replace("cooling: 0.5", "cooling: 0.6"), encoding="utf8")
    load_paper.cache_clear()
    stale = {item.record.arm: item.stale for item in load(root).stored}
    assert stale == {"slow": "", "fast": "settings", "greedy": ""}
    notes = context_notes(load(root).context(), compared=False)
    assert any(note.startswith("STALE: 4 of 12") for note in notes)


def test_an_archive_gives_the_same_numbers_but_no_artifacts(root: Path) -> None:
    options = ["--root", str(root), "--results", str(root / "results")]
    main(["archive", "annealing", *options])
    kept = Results.from_archive(root / "papers/annealing", "laptop", root=root)
    pd.testing.assert_frame_equal(kept.frame, load(root).frame)
    with pytest.raises(InputError, match="archive"):
        kept.records("search", "slow")[0].read_csv("curve.csv")


def test_a_published_number_is_kept_as_printed_and_an_empty_one_is_missing(root: Path) -> None:
    results = load(root)
    number = results.published_value("Table 1", "slow", "city", "cost")
    assert number is not None
    assert (number.value, number.text, number.std) == (12.5, "12.50", 0.3)
    text = results.published_value("Table 1", "greedy", "city", "cost")
    assert text is not None
    assert (text.value, text.text) == (None, "OOM")
    assert results.published_value("Table 1", "slow", "grid", "cost") is None
    assert results.published_value("Table 9", "slow", "grid", "cost") is None
    with pytest.raises(InputError, match="several values: 1, 2"):
        results.published_value("Table 1", "twice", "grid", "cost")


def test_an_unknown_confidence_is_refused(root: Path) -> None:
    path = root / "papers/annealing/published.csv"
    path.write_text(path.read_text().replace("recalled", "sure"), encoding="utf8")
    with pytest.raises(InputError, match=r"row 3: confidence 'sure' must be one of"):
        read_published(path.parent)


def test_a_missing_published_number_stays_missing_in_every_format(root: Path) -> None:
    cells = [cell_of(load(root), "slow", "city"), cell_of(load(root), "slow", "grid")]
    table = Table(cells=cells, target="t", title="T", source="Table 1")
    missing = table.cell("slow", "grid", "grid_cost")
    assert missing.published is None
    assert missing.difference is None
    published, difference = table_files.to_markdown(table).splitlines()[5:7]
    assert published.split("|")[4].strip() == tables.MISSING
    assert difference.split("|")[4].strip() == tables.MISSING
    assert table_files.to_latex(table).count("---") == 2
    written = table_files.write(table, root)
    frame = pd.read_csv(next(path for path in written if path.suffix == ".csv"))
    assert frame["published"].isna().tolist() == [False, True]
    assert frame["difference"].isna().tolist() == [False, True]
    assert json.loads((root / "t.json").read_text())["cells"][1]["published"] is None


def test_a_recalled_number_is_marked_unverified_and_a_verified_one_is_not(root: Path) -> None:
    results = load(root)
    recalled = Table(cells=[cell_of(results, "fast", "city")])
    verified = Table(cells=[cell_of(results, "slow", "city")])
    for write in (table_files.to_markdown, table_files.to_latex):
        assert "14.10 [unverified]" in write(recalled)
        assert "unverified" not in write(verified)
    assert "recalled" in table_files.to_csv(recalled)


def test_a_table_survives_being_written_and_read(root: Path) -> None:
    cells = [cell_of(load(root), arm, "city") for arm in COSTS]
    table = Table(cells=cells, target="t", title="A & B", notes=["50 %"], context=CONTEXT)
    table_files.write(table, root)
    assert tables.read(root / "t.json") == table


def test_only_the_paper_scale_is_compared_in_absolute_terms() -> None:
    for scale, warned in (("smoke", True), ("laptop", True), ("paper", False)):
        context = CONTEXT.model_copy(update={"scale": scale})
        notes = " ".join(context_notes(context, compared=True))
        assert ("not comparable" in notes) == warned
        assert "x (real)" in notes


def test_a_cell_given_twice_is_refused() -> None:
    one = Cell(row="a", column="b", metric="c")
    with pytest.raises(ValueError, match="given twice"):
        Table(cells=[one, one])


@pytest.mark.parametrize(
    ("mean", "published", "text", "ours", "difference"),
    [
        (12.345, 12.5, "12.50", "12.35 (1)", "−0.15 (−1 %)"),
        (1234.6, 1000.0, "1000", "1235 (1)", "+235 (+23 %)"),
        (0.00001234, None, "", "1.23e-05 (1)", tables.MISSING),
        (0.0, 0.0, "0", "0 (1)", "0"),
        (0.0366, 2381.0, "2381", "0.037 (1)", "−2381 (−100 %)"),
    ],
)
def test_numbers_have_the_papers_decimals_or_three_digits(
    mean: float, published: float | None, text: str, ours: str, difference: str
) -> None:
    cell = Cell(
        row="", column="", metric="", mean=mean, n=1, published=published, published_text=text
    )
    assert cell.ours_text == ours
    assert cell.difference_text == difference


def test_figures_have_the_same_bytes_every_time(root: Path) -> None:
    def draw(results: Results) -> plt.Figure:
        figure, axes = plt.subplots()
        axes.plot(results.values("search", "slow", "city_cost"), label="slow")
        axes.legend()
        return figure

    once = figures.build(draw, load(root), "figure1", root / "one")
    again = figures.build(draw, load(root), "figure1", root / "two")
    assert [path.suffix for path in once] == [".png", ".svg", ".json"]
    for first, second in zip(once, again, strict=True):
        assert first.read_bytes() == second.read_bytes()


def test_frames_make_the_png_an_animation_that_the_report_shows(root: Path) -> None:
    def draw(results: Results) -> FigureWithCaption:
        drawn = []
        for height in (1, 2, 3):
            figure, axes = plt.subplots(figsize=(2, 2))
            axes.bar([0], [height])
            axes.set_ylim(0, 3)
            drawn.append(figure)
        return FigureWithCaption(drawn[-1], "A bar grows.", "A bar.", tuple(drawn[:-1]))

    png, _, note = figures.build(draw, load(root), "figure1", root / "moving")
    with Image.open(png) as image:
        assert image.n_frames == 3
        assert image.info["loop"] == figures.ROUNDS
        durations = []
        for number in range(3):
            image.seek(number)
            durations.append(image.info["duration"])
    assert durations == [figures.FRAME_MS, figures.FRAME_MS, figures.LAST_FRAME_MS]
    assert figures.read_note(note).animated
    assert data_uri(note, animated=True).startswith("data:image/png;base64,")


def test_an_arm_has_one_style_of_its_own(root: Path) -> None:
    styles = figures.arm_styles(load_paper(root / "papers/annealing"))
    assert list(styles) == ["slow", "fast", "greedy"]
    assert len({style["color"] for style in styles.values()}) == 3


def test_coverage_counts_the_papers_own_targets_only(root: Path) -> None:
    paper, results = load_paper(root / "papers/annealing"), root / "results"
    before = coverage(paper, "laptop", results)
    assert (before["targets"], before["rebuilt"]) == (3, 0)
    assert [item["name"] for item in before["not_rebuilt"]] == ["table2", "table1", "figure1"]
    for built in ("tables/table1", "figures/figure2"):
        path = results / "laptop/annealing" / f"{built}.json"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    after = coverage(paper, "laptop", results)
    assert (after["targets"], after["rebuilt"]) == (3, 1)
    assert [item["name"] for item in after["not_rebuilt"]] == ["table2", "figure1"]


def test_the_check_accepts_records_and_names_what_breaks_the_schema(root: Path) -> None:
    options = ["--root", str(root), "--results", str(root / "results")]
    main(["check", *options])
    path = root / "results/laptop/annealing/search/cities/slow/seed0/record.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"seed": -1, "extra": 0}), encoding="utf8")
    with pytest.raises(InputError, match=r"slow/seed0/record.json: .*extra.*-1"):
        main(["check", *options])
    with pytest.raises(InputError, match="no records to check"):
        main(["check", "--scale", "smoke", *options])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["table", "annealing", "table9"], "table 'table9': must be one of table1"),
        (["figure", "annealing", "table1"], "must be one of figure1, figure2"),
        (["claims", "nowhere"], "paper 'nowhere': must be one of annealing"),
        (["benchmark", "annealing"], "required: NAME"),
    ],
)
def test_an_unusable_command_line_is_explained(root: Path, words: list[str], message: str) -> None:
    options = ["--root", str(root), "--results", str(root / "results")]
    with pytest.raises(InputError, match=message):
        main([*words, *options])


def test_comparing_a_callable_with_itself_counts_its_pairs_and_orders_its_ratios() -> None:
    calls: list[int] = []
    timed = compare(lambda: calls.append(0), lambda: calls.append(1), repeats=4)
    assert calls == [0, 1, 0, 1, 1, 0, 0, 1, 1, 0]
    assert timed.low <= timed.ratio <= timed.high
    row = timed.row("p", "append", "append")
    assert (row.n, row.unit) == (4, "s")


def test_a_score_is_compared_by_means_and_by_pairs() -> None:
    row = score_row("p", "share solved", "peer", [0.9, 0.6], [0.5, 0.5])
    assert (row.ours, row.theirs) == pytest.approx((0.75, 0.5))
    assert (row.low, row.ratio, row.high) == pytest.approx((1.2, 1.5, 1.8))
    assert row.n == 2
    assert row.higher_is_better


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ([0.5], [0.5, 0.5]),
        ([], []),
        ([0.5, -0.1], [0.5, 0.5]),
        ([0.5], [0.0]),
        ([np.nan], [0.5]),
        ([0.5], [np.inf]),
    ],
)
def test_scores_without_a_ratio_are_refused(ours: list[float], theirs: list[float]) -> None:
    with pytest.raises(ValueError, match="must be pairs of positive ones"):
        score_row("p", "share solved", "peer", ours, theirs)


@pytest.mark.parametrize(("ours", "theirs"), [(0, 5), (5, 0), (-1, 5)])
def test_memory_without_a_ratio_is_refused(ours: int, theirs: int) -> None:
    with pytest.raises(ValueError, match=f"sort: {ours} and {theirs} bytes; both must be positive"):
        memory_row("p", "sort", "peer", ours, theirs)


def test_a_time_below_the_clocks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.results.benchmarks.time.perf_counter", lambda: 1.0)
    with pytest.raises(ValueError, match="took no time that the clock can tell"):
        compare(lambda: None, lambda: None)


@pytest.mark.parametrize("key", ["ratio", "low", "high", "ours", "theirs"])
@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_ratio_is_a_finite_number(key: str, value: float) -> None:
    row = {"paper": "p", "what": "sort", "peer": "q", "ratio": 1.0, "low": 1, "high": 1, "n": 1}
    assert validated(BenchmarkRow, row, "here").ratio == 1
    with pytest.raises(InputError, match=f"here: key '{key}': Input should be a finite number"):
        validated(BenchmarkRow, row | {key: value}, "here")


def test_a_column_of_words_describes_and_one_with_numbers_compares() -> None:
    words = Cell(row="r", column="Task", metric="Task", published_text="Speech")
    pair = [
        Cell(row="r", column="score", metric=name, mean=1.0, n=1, published=2.0, published_text="2")
        for name in ("mean", "median")
    ]
    table = Table(cells=[words, *pair])
    assert table.describes("Task", "Task")
    assert table.heading("Task", "Task") == "Task"
    assert not table.describes("score", "mean")
    assert table.heading("score", "mean") == "score: mean"


def test_a_mark_that_a_whole_column_shares_is_given_once() -> None:
    def cells(*confidence: Confidence) -> list[Cell]:
        return [
            Cell(row=str(i), column="c", metric="m", published_text="1", confidence=each)
            for i, each in enumerate(confidence)
        ]

    assert Table(cells=cells("artifact", "artifact")).mark("c", "m") == "authors' artifact"
    assert Table(cells=cells("artifact", "verified")).mark("c", "m") == ""


def test_a_number_computed_from_files_is_shown_with_four_digits_a_printed_one_as_it_is() -> None:
    given = {"row": "r", "column": "c", "metric": "m", "mean": 2109.1438, "n": 1}
    number = {"published": 2088.7688, "published_std": 12.3456, "published_text": "2088.7688"}
    made = Cell(**given, **number, confidence="artifact")
    printed = Cell(**given, **number, confidence="verified")
    assert (made.ours_text, made.published_with_std) == ("2109 (1)", "2089 ± 12")
    assert (printed.ours_text, printed.published_with_std) == (
        "2109.1438 (1)",
        "2088.7688 ± 12.3456",
    )


def test_a_record_is_not_stale_over_a_program_that_its_own_does_not_import(root: Path) -> None:
    """Records of old name all programs of their paper."""
    own, other = (f"papers/annealing/experiments/{name}.py" for name in ("anneal", "melt"))
    old = {own: "def run(x): return x", other: "LIMIT = 3"}
    path = root / "results/laptop/annealing/search/cities/fast/seed2/record.json"
    record = read_record(path)
    made = record.provenance.model_copy(update={"code": Tree(old).code(old)})
    record = record.model_copy(update={"provenance": made})
    paper = load_paper(root / "papers" / "annealing")

    def changed(**sources: str) -> tuple[str, ...]:
        now = dict(zip((own, other), sources.values(), strict=True))
        return changes(record, paper, Tree(now)).code

    assert changed(anneal=old[own], melt="LIMIT = 4") == ()
    assert changed(anneal="def run(x): return 2 * x", melt="LIMIT = 4") == (f"{own}: run",)
    imports = "def run(x): return x\nfrom papers.annealing.experiments import melt"
    assert changed(anneal=imports, melt="LIMIT = 4") == (f"{other}: LIMIT",)
    # What is gone may have gone into a module that is imported.
    assert changes(record, paper, Tree({own: old[own]})).code == (f"{other}: LIMIT",)


def test_what_was_set_by_hand_is_no_setting_of_the_file(root: Path) -> None:
    record = read_record(root / "results/laptop/annealing/search/cities/fast/seed2/record.json")
    paper, tree = load_paper(root / "papers" / "annealing"), Tree({})
    assert not changes(record, paper, tree).settings
    words = ["train.py", "search", "--arm", "fast", "--set", "tolerance=5"]
    by_hand = record.provenance.model_copy(update={"command": words})
    assert changes(record.model_copy(update={"provenance": by_hand}), paper, tree).settings


def test_a_record_that_read_another_run_than_it_would_now_is_stale(root: Path) -> None:
    record = read_record(root / "results/laptop/annealing/search/cities/fast/seed2/record.json")
    read = {"laptop/annealing/search/cities/slow/seed0": "0" * 64}
    record = record.model_copy(update={"needed": read})
    data = read_yaml(root / "papers/annealing/experiments.yaml")

    def stale(arm: str) -> bool:
        data["experiments"]["search"]["arms"]["fast"]["needs"] = {"start": f"search/cities/{arm}"}
        return changes(record, Paper.model_validate(data), Tree({})).settings

    assert not stale("slow")
    assert stale("greedy")


def test_a_repeat_speaks_of_records_of_its_own_case(root: Path) -> None:
    record = read_record(root / "results/laptop/annealing/search/cities/fast/seed2/record.json")
    changed = ["papers/annealing/tasks.py: distance"]
    repeat = Repeat(
        experiment="search",
        case="cities",
        arm="slow",
        seed=0,
        of="earlier",
        changed=changed,
        code={"papers/annealing/tasks.py": {}},
        outcome="equal",
        differences=[],
        tolerance=0,
        git_commit="0" * 40,
        cpu="one",
        instructions="avx2",
        started_at="now",
        cpu_s=1,
    )
    assert repeat.speaks_of(record, changed, Tree({}))
    assert not repeat.speaks_of(record, [*changed, "papers/annealing/tasks.py: path"], Tree({}))
    elsewhere = record.model_copy(update={"case": "grids"})
    assert not repeat.speaks_of(elsewhere, changed, Tree({}))


def test_a_record_that_read_a_run_that_was_made_anew_is_stale(root: Path) -> None:
    yaml = root / "papers/annealing/experiments.yaml"
    needs = "needs: {start: search/cities/slow}, settings: {cooling: 0.5}"
    yaml.write_text(yaml.read_text().replace("settings: {cooling: 0.5}", needs), encoding="utf8")
    load_paper.cache_clear()
    place = "laptop/annealing/search/cities"
    slow = read_record(root / f"results/{place}/slow/seed1/record.json")
    path = root / f"results/{place}/fast/seed1/record.json"
    fast = json.loads(path.read_text(encoding="utf8"))

    def stale(digest: str) -> list[str]:
        needed = {f"{place}/slow/seed1": digest}
        path.write_text(json.dumps(fast | {"needed": needed}), encoding="utf8")
        return [f"{item.name}: {item.stale}" for item in load(root).stored if item.stale]

    assert stale(slow.artifacts_sha256) == []
    said = "what it needs: search/cities/slow/seed1"
    assert stale("0" * 64) == [f"search/cities/fast/seed1: {said}"]


def test_an_archived_run_that_the_file_no_longer_has_is_left_out_by_name(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = root / "papers" / "annealing"
    main(["archive", "annealing", "--root", str(root), "--results", str(root / "results")])
    path = folder / "experiments.yaml"
    path.write_text(path.read_text(encoding="utf8").replace("      cities:", "      towns:"))
    load_paper.cache_clear()
    assert Results.from_archive(folder, "laptop", root=root).stored == []
    assert "left out, experiments.yaml has no such runs: search/cities/fast" in caplog.text
