"""A made-up paper with records, tables, figures and claims, for tests of what shows results."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

from common.experiments.schema import RunKey, Scale, load_paper
from common.runs.files import file_sha256
from common.runs.record import Artifact, DataIdentity, Provenance, Record

EXPERIMENTS = """
paper: {name}
title: Cooling schedules for an annealed search
publication: "Proc. of Examples 2020"
url: https://example.org/paper
experiments:
  search:
    title: Cost after a fixed budget
    source: Sec. 4.1
    program: anneal
    seeds: {{smoke: [0, 1, 2], laptop: [0, 1, 2, 3], paper: [0, 1, 2]}}
    settings: {{budget: 100, rate: 1e-4}}
    cases:
      cities: {{title: Twenty cities, at: [smoke, laptop, paper]}}
    arms:
      slow: {{title: Slow cooling, settings: {{cooling: 0.99}}}}
      fast: {{title: Fast cooling, settings: {{cooling: 0.5}}}}
      greedy: {{title: No temperature at all, settings: {{cooling: 0.0}}}}
targets:
  table1: {{kind: table, title: Final cost by problem, source: Table 1, experiments: [search]}}
  figure1:
    kind: figure
    title: Cost against budget
    source: Figure 1
    experiments: [search]
    note: The paper draws a median.
  figure2: {{kind: figure, title: An extra, source: ours, experiments: [search], in_paper: false}}
not_rebuilt:
  - {{name: table2, title: Table 2, reason: Needs data that cannot be had by anyone.}}
"""

PUBLISHED = """\
paper,table_or_figure,row,column,metric,value,std,unit,confidence,source
annealing,Table 1,slow,city,cost,12.50,0.3,,verified,p. 5
annealing,Table 1,fast,city,cost,14.10,,,recalled,memory
annealing,Table 1,greedy,city,cost,OOM,,,artifact,p. 5
annealing,Table 1,slow,grid,cost,,,,verified,left empty in the paper
annealing,Table 1,twice,grid,cost,1,,,verified,p. 5
annealing,Table 1,twice,grid,cost,2,,,verified,p. 6
"""

TABLES = '''
from common.results.tables import Table, cell


def table1(results):
    """Cost of each arm on both problems."""
    return Table(
        row_header="Cooling",
        notes=["Lower is better."],
        cells=[
            cell(
                results,
                row=body.title,
                column=problem,
                experiment="search",
                arm=arm,
                metric=f"{problem}_cost",
                label="cost",
                published=("Table 1", arm, problem, "cost"),
            )
            for arm, body in results.paper.experiments["search"].arms.items()
            for problem in ("city", "grid")
        ],
    )


TABLES = {"table1": table1}
'''

FIGURES = '''
import matplotlib.pyplot as plt

from common.results.figures import FigureWithCaption, arm_styles


def figure1(results):
    """Cost by seed."""
    figure, axes = plt.subplots()
    for arm, style in arm_styles(results.paper).items():
        axes.plot(results.values("search", arm, "city_cost"), label=arm, **style)
    axes.set(xlabel="seed", ylabel="cost")
    axes.legend()
    return FigureWithCaption(figure, "Cost of each arm.", "Three lines; slow cooling is lowest.")


def figure2(results):
    """A bare figure."""
    figure, axes = plt.subplots()
    axes.hist(results.frame["value"])
    return figure


FIGURES = {"figure1": figure1, "figure2": figure2}
'''

CLAIMS = """
claims:
  - claim: slow_beats_fast
    statement: Slow cooling ends at least a twentieth below fast cooling.
    source: Sec. 4.1
    statistic: reduction
    a: {experiment: search, arm: slow, metric: city_cost}
    b: {experiment: search, arm: fast, metric: city_cost}
    above: 0.05
    published: "11 %"
  - claim: greedy_is_cheap
    statement: Greedy search stays below a cost of ten.
    source: Sec. 4.2
    statistic: mean
    a: {experiment: search, arm: greedy, metric: city_cost}
    below: 10
    explanation: Our problems have more local optima than the paper's.
  - claim: greedy_differs_little
    statement: Greedy search is no more than a tenth worse than fast cooling on average.
    source: Sec. 4.2
    statistic: ratio
    a: {experiment: search, arm: greedy, metric: grid_cost}
    b: {experiment: search, arm: fast, metric: grid_cost}
    below: 1.1
"""

BENCHMARKS = '''
from common.results.benchmarks import compare, score_row


def speed(scale):
    """Sum of a range beside the sum of a list."""
    timed = compare(lambda: sum(range(2000)), lambda: sum(list(range(2000))), repeats=3)
    return [timed.row("annealing", "sum", "list", note=f"2000 numbers at {scale}")]


def quality(scale):
    """Share of problems solved."""
    return [score_row("annealing", "share solved", "hill climbing", [0.9, 0.6], [0.5, 0.5])]


BENCHMARKS = {"speed": speed, "quality": quality}
'''

#: Mean cost by arm; seeds add their own offset to both problems.
COSTS = {"slow": (12.0, 3.0), "fast": (14.0, 4.0), "greedy": (19.0, 4.4)}


def write_paper(root: Path, name: str = "annealing") -> Path:
    """Write the paper's folder below ``root``; returns it."""
    folder = root / "papers" / name
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    contents = {
        "experiments.yaml": EXPERIMENTS.format(name=name),
        "published.csv": PUBLISHED,
        "targets/tables.py": TABLES,
        "targets/figures.py": FIGURES,
        "claims.yaml": CLAIMS,
        "benchmarks/ratios.py": BENCHMARKS,
    }
    for file, text in contents.items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf8")
    return folder


def make_metrics(arm: str, seed: int) -> dict[str, float]:
    """Metrics of one run: the arm's cost plus what its seed adds."""
    city, grid = COSTS[arm]
    bumpy = 0.6 * (-1) ** seed if arm == "greedy" else 0.0
    return {"city_cost": city + 0.25 * seed, "grid_cost": grid + 0.1 * seed + bumpy}


def make_record(
    key: RunKey, settings: Mapping[str, object], metrics: Mapping[str, float]
) -> Record:
    """A record as a run of the made-up program would leave it."""
    return Record(
        paper=key.paper,
        experiment=key.experiment,
        case=key.case,
        arm=key.arm,
        seed=key.seed,
        scale=key.scale,  # type: ignore[arg-type]
        program="anneal",
        settings={**settings, "rate": 1e-4, "restarts": 1},
        data=[DataIdentity(name="cities", real=False, source="generator")],
        metrics=dict(metrics),
        artifacts={},
        provenance=Provenance(
            command=["train.py"],
            git_commit="0123456789abcdef",
            git_dirty=False,
            code={},
            python="3.11.2",
            packages={"numpy": "2.4.6"},
            platform="Linux",
            cpu="Example CPU",
            cores=2,
            device="cpu",
            precision="float64",
            started_at=f"2026-01-0{1 + key.seed}T10:00:00+00:00",
            wall_s=30.0,
            cpu_s=29.0,
            peak_rss_bytes=200 * 2**20,
            peak_gpu_bytes=0,
        ),
    )


def write_records(folder: Path, results: Path, scale: Scale = "laptop") -> list[Path]:
    """Write a record of every run of the paper at ``scale``; returns their paths."""
    paper = load_paper(folder)
    written = []
    for key in paper.runs(scale):
        settings = paper.settings(key.experiment, key.case, key.arm, scale)
        record = make_record(key, settings, make_metrics(key.arm, key.seed))
        path = key.record(results)
        path.parent.mkdir(parents=True)
        csv = path.parent / "curve.csv"
        csv.write_text("step,cost\n0,20\n100,12\n", encoding="utf8")
        artifact = Artifact(sha256=file_sha256(csv), bytes=csv.stat().st_size)
        record = record.model_copy(update={"artifacts": {"curve.csv": artifact}})
        path.write_text(record.model_dump_json(), encoding="utf8")
        written.append(path)
    return written
