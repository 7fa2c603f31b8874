"""The report: one HTML file with everything in it, readable from ``file://``, on paper, on a phone.

Template, style sheet and script lie in ``page/`` and are inlined; images are data URIs.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from markupsafe import Markup

from common.errors import InputError
from common.experiments.schema import SCALES, NotRebuilt, Paper, Scale, find_papers, load_paper
from common.results.benchmarks import BenchmarkRow
from common.results.claims import Judged, chance, judge_all, read_claims
from common.results.evidence.archives import archive_path
from common.results.figures import FigureNote, read_note
from common.results.lineage import RunIndex, commands
from common.results.listings import Listing
from common.results.listings import read as read_listing
from common.results.records import Results, StoredRecord, origin, recertified
from common.results.report.house_time import read_house_time
from common.results.report.summary import benchmark_rows, coverage, judged_claims, target_file
from common.results.report.table_view import TableView, arrange
from common.results.report.templates import environment, inlined, number
from common.results.tables import build, read
from common.runs.files import write_atomically
from common.runs.machine import git_state

#: Larger SVG files (clouds of points) are shown as PNG.
LARGEST_SVG: Final = 400_000

ModuleOf = Callable[[Path, str, str], ModuleType]


@dataclass(frozen=True)
class FigureView:
    """A figure with its image as a data URI."""

    note: FigureNote
    image: str


@dataclass(frozen=True)
class ExperimentView:
    """What the runs of one experiment cost and what they were made with."""

    name: str
    title: str
    source: str
    runs: int
    expected: int
    seeds: list[int]
    wall_s: float
    peak_rss_bytes: int
    peak_gpu_bytes: int
    data: list[str]
    machines: list[str]
    commits: list[str]
    packages: list[str]
    recertified: list[str]
    stale: list[str]


@dataclass(frozen=True)
class ArchiveView:
    """Verdicts and tables from records that were kept from a run at another scale."""

    scale: str
    newest: str
    devices: list[str]
    runs: int
    recertified: list[str]
    stale: list[str]
    claims: list[Judged]
    tables: list[TableView]
    without: list[NotRebuilt]

    @property
    def verdicts(self) -> Counter[str]:
        """Number of claims by verdict."""
        return Counter(item.verdict for item in self.claims)


@dataclass(frozen=True)
class ListedClaim:
    """A claim in the list of all: ``place`` is the identifier of where it is shown.

    ``case`` is the title of what its operands were compared on.
    """

    claim: Judged
    scale: str
    place: str
    case: str

    @property
    def facets(self) -> dict[str, str]:
        """What the list can be filtered by: each is a choice, and an attribute of its line."""
        return {
            "verdict": self.claim.verdict,
            "paper": self.claim.paper,
            "case": self.case,
            "scale": self.scale,
        }


@dataclass(frozen=True)
class PaperView:
    """One paper's part of the page."""

    paper: Paper
    coverage: dict[str, Any]
    claims: list[Judged]
    tables: list[TableView]
    figures: list[FigureView]
    listings: list[Listing]
    archives: list[ArchiveView]
    benchmarks: list[BenchmarkRow]
    experiments: list[ExperimentView]

    @property
    def verdicts(self) -> Counter[str]:
        """Number of claims by verdict."""
        return Counter(item.verdict for item in self.claims)

    def found(self, scale: str) -> list[tuple[str, Counter[str]]]:
        """Number of claims by verdict, at ``scale`` and at those whose records were kept."""
        each = [(scale, self.verdicts), *((kept.scale, kept.verdicts) for kept in self.archives)]
        return [(at, counts) for at, counts in each if counts]

    @property
    def wall_s(self) -> float:
        """Wall time of all runs, in seconds."""
        return sum(study.wall_s for study in self.experiments)

    @property
    def peak_bytes(self) -> int:
        """Largest resident memory of a run."""
        return max((study.peak_rss_bytes for study in self.experiments), default=0)

    @property
    def runs(self) -> int:
        """Number of records."""
        return sum(study.runs for study in self.experiments)

    @property
    def stale(self) -> int:
        """Number of records made with other code or settings."""
        return sum(len(study.stale) for study in self.experiments)


def write_report(root: Path, scale: Scale, results: Path, module_of: ModuleOf) -> Path:
    """Write ``results/<scale>/report/index.html`` from what is there; returns its path.

    Args:
        module_of: imports ``papers.<paper>.<module>`` below a root; builds archived tables.

    Raises:
        InputError: a file below ``results/<scale>`` cannot be read.
    """
    papers: list[PaperView] = []
    newest, devices = "", set()
    for folder in find_papers(root):
        paper = load_paper(folder)
        loaded = Results.load(folder, scale, results, root=root, complete=False)
        context = loaded.context()
        newest = max(newest, context.newest)
        devices |= {item.record.provenance.cpu for item in loaded.stored}
        devices |= {name for name in context.devices if name != "cpu"}
        papers.append(
            PaperView(
                paper=paper,
                coverage=coverage(paper, scale, results),
                claims=judged_claims(results, scale, paper.paper),
                tables=[
                    arrange(read(path), loaded) for path in _built(paper, scale, results, "table")
                ],
                figures=[
                    FigureView(note, data_uri(path, note.animated))
                    for path in _built(paper, scale, results, "figure")
                    for note in (read_note(path),)
                ],
                listings=[read_listing(path) for path in _built(paper, scale, results, "listing")],
                archives=[
                    _archive(folder, other, root, module_of)
                    for other in SCALES
                    if other != scale and archive_path(folder, other).is_file()
                ],
                benchmarks=benchmark_rows(results, scale, paper.paper),
                experiments=[_experiment(paper, name, scale, loaded) for name in paper.experiments],
            )
        )
    commit, dirty = git_state(root)
    templates = environment()
    templates.filters |= {
        "duration": duration,
        "memory": memory,
        "quantity": quantity,
        "each_seed": each_seed,
    }
    index = RunIndex()
    templates.globals |= {"strip": interval_strip, "totals": _totals, "index": index}
    text = templates.get_template("report.html").render(
        papers=papers,
        house=read_house_time(results, scale),
        listed=_listed(papers, scale),
        scale=scale,
        commit=commit,
        dirty=dirty,
        newest=newest,
        devices=sorted(devices),
        commands=commands(results),
        style=inlined("report.css"),
        script=inlined("report.js"),
    )
    path = results / scale / "report" / "index.html"
    write_atomically(path, text)
    return path


def _built(paper: Paper, scale: Scale, results: Path, kind: str) -> list[Path]:
    """The JSON of every target of this kind that is built, in the paper's order."""
    names = [name for name, body in paper.targets.items() if body.kind == kind]
    paths = [target_file(results, scale, paper, name) for name in names]
    return [path for path in paths if path.is_file()]


def data_uri(note: Path, animated: bool) -> str:
    """The image beside a figure's JSON: its SVG, or its PNG where that is large or it moves."""
    vector = note.with_suffix(".svg")
    try:
        large = animated or vector.stat().st_size > LARGEST_SVG
        image = note.with_suffix(".png").read_bytes() if large else vector.read_bytes()
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from None
    kind = "png" if large else "svg+xml"
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"


def _archive(folder: Path, scale: Scale, root: Path, module_of: ModuleOf) -> ArchiveView:
    """What the archived records give; a table that cannot be made of them is named with why."""
    paper = load_paper(folder)
    everything = Results.from_archive(folder, scale, root=root)
    made, without = [], []
    kept = {item.record.experiment for item in everything.stored}
    for name, body in paper.targets.items():
        if body.kind != "table" or not kept & set(body.experiments):
            continue
        functions = module_of(root, paper.paper, "targets.tables").TABLES
        try:
            if name not in functions:
                raise InputError(f"targets/tables.py: TABLES has no {name!r}")
            table = build(functions[name], everything.among(body.experiments), name)
            made.append(arrange(table, everything))
        except InputError as error:
            without.append(NotRebuilt(name=name, title=body.title, reason=str(error)))
    claims = read_claims(folder) if (folder / "claims.yaml").is_file() else []
    context = everything.context()
    return ArchiveView(
        scale,
        context.newest,
        context.devices,
        context.runs,
        context.recertified,
        context.stale,
        [claim for claim in judge_all(claims, everything) if claim.n],
        made,
        without,
    )


def _experiment(paper: Paper, name: str, scale: Scale, results: Results) -> ExperimentView:
    study = paper.experiments[name]
    stored = results.records(name)
    made = [item.record.provenance for item in stored]
    packages = {f"{key} {value}" for item in made for key, value in item.packages.items()}
    return ExperimentView(
        name=name,
        title=study.title,
        source=study.source,
        runs=len(stored),
        expected=len(paper.runs(scale, [name])),
        seeds=sorted({item.record.seed for item in stored}),
        wall_s=sum(item.wall_s for item in made),
        peak_rss_bytes=max((item.peak_rss_bytes for item in made), default=0),
        peak_gpu_bytes=max((item.peak_gpu_bytes for item in made), default=0),
        data=sorted({_data(item) for item in stored}),
        machines=sorted({f"{item.device}, {item.precision}, {item.cpu}" for item in made}),
        commits=sorted({item.git_commit[:10] + "+" * item.git_dirty for item in made}),
        packages=sorted(packages | {f"python {item.python}" for item in made}),
        recertified=recertified(stored),
        stale=[f"{item.name} ({item.stale})" for item in stored if item.stale],
    )


def _data(item: StoredRecord) -> str:
    names = {f"{data.name} ({origin(data)})" for data in item.record.data}
    return " + ".join(sorted(names)) or "none"


def _listed(papers: list[PaperView], scale: Scale) -> list[ListedClaim]:
    """Every claim at every scale that it was judged at, by paper."""
    found = []
    for paper in papers:
        judged: list[tuple[str, str, list[Judged]]] = [(scale, "", paper.claims)]
        judged += [(kept.scale, f"-{kept.scale}", kept.claims) for kept in paper.archives]
        found += [
            ListedClaim(
                one,
                at,
                f"{paper.paper.paper}{part}-claim-{one.claim}",
                _cases(one, paper.paper, at),
            )
            for at, part, claims in judged
            for one in claims
        ]
    return found


def _cases(claim: Judged, paper: Paper, scale: str) -> str:
    """Titles of the cases of a claim's operands."""
    sides = (claim.a, claim.b or claim.a)
    cases = (paper.experiments[side.experiment].cases[side.case] for side in sides)
    return " / ".join(dict.fromkeys(case.title_at(scale) for case in cases))


def _totals(papers: list[PaperView]) -> dict[str, Any]:
    """Sums over papers for the head of the page."""
    verdicts: Counter[str] = Counter()
    for view in papers:
        verdicts += view.verdicts
    return {
        "targets": sum(view.coverage["targets"] for view in papers),
        "rebuilt": sum(view.coverage["rebuilt"] for view in papers),
        "verdicts": verdicts,
        "chance": chance([item for view in papers for item in view.claims]),
        "runs": sum(view.runs for view in papers),
        "wall_s": sum(view.wall_s for view in papers),
        "stale": sum(view.stale for view in papers),
    }


def interval_strip(claim: Judged, width: int = 220) -> Markup:
    """The claim's interval and value against its threshold, as a small inline SVG."""
    if claim.value is None:
        return Markup("")
    threshold = claim.above if claim.below is None else claim.below
    assert threshold is not None  # a claim has one of both
    low, high = claim.interval or (claim.value, claim.value)
    ends = (min(low, threshold), max(high, threshold))
    margin = 0.12 * (ends[1] - ends[0]) or 0.1 * abs(ends[0]) or 1.0

    def x(value: float) -> str:
        return f"{width * (value - ends[0] + margin) / (ends[1] - ends[0] + 2 * margin):.1f}"

    start, end = (x(threshold), str(width)) if claim.below is None else ("0", x(threshold))
    label = f"value {number(claim.value)}"
    if claim.interval:
        label += f", 95 % interval {number(low)} to {number(high)}"
    label += f", threshold {number(threshold)}"
    return Markup(
        '<svg class="strip {verdict}" viewBox="0 0 {width} 24" preserveAspectRatio="xMinYMid"'
        ' role="img" aria-label="{label}">'
        '<rect class="allowed" x="{start}" y="3" width="{span:.1f}" height="18"/>'
        '<line class="axis" x1="0" x2="{width}" y1="12" y2="12"/>'
        '<line class="interval" x1="{low}" x2="{high}" y1="12" y2="12"/>'
        '<line class="threshold" x1="{at}" x2="{at}" y1="1" y2="23"/>'
        '<circle class="value" cx="{value}" cy="12" r="4"/></svg>'
    ).format(
        verdict=claim.verdict,
        width=width,
        label=label,
        start=start,
        span=float(end) - float(start),
        low=x(low),
        high=x(high),
        at=x(threshold),
        value=x(claim.value),
    )


def each_seed(claim: Judged) -> str:
    """What each seed gives alone, in words; nothing of one seed."""
    if claim.n < 2:
        return ""
    values = (
        f"{'undefined' if value is None else number(value)} (seed {seed})"
        for seed, value in claim.by_seed.items()
    )
    return f"Each seed alone: {', '.join(values)}."


def quantity(value: float, unit: str) -> str:
    """A number with its unit; short times in ms, µs or ns."""
    if unit == "s" and 0 < value < 1:
        for factor, name in ((1e3, "ms"), (1e6, "µs"), (1e9, "ns")):
            if value * factor >= 1 or name == "ns":
                return f"{number(value * factor)} {name}"
    return f"{number(value)} {unit}".rstrip()


def duration(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.3g} {unit}"
    return f"{seconds / 86400:.3g} d"


def memory(size: float) -> str:
    """Bytes as MiB or GiB; an em dash for none."""
    if not size:
        return "—"
    return f"{size / 2**20:.0f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"
