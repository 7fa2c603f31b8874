"""Where processor time goes: in runs themselves, and in all that surrounds them.

A record says what its run took. ``logs/<scale>/jobs.jsonl``, to which the warm process and
Snakemake add, says what the jobs took that ran and drew. A line there counts if it is of the job
that made what lies in the results now: a job that was repeated has several, and of one that ran
without the warm process (by hand, on a cluster) there is none. Those are told as not accounted for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from common.errors import InputError
from common.experiments.documents import parse_json, read_json
from common.experiments.schema import Paper, Scale, find_papers, load_paper
from common.experiments.settings import Settings, validated
from common.results.report.summary import target_file
from common.runs.record import Record, load_record

#: Experiments that are listed by what they took.
SLOWEST: Final = 10
#: Seconds in which Snakemake touches what a job has made.
TOUCHED: Final = 60


class Job(Settings):
    """A job that was a fork of the warm process; times in seconds, or since the epoch.

    ``client_cpu_s`` is of the shell and the program that asked for the fork.
    """

    words: list[str]
    status: int
    started: float
    ended: float
    cpu_s: float
    children_cpu_s: float
    client_cpu_s: float

    def ran_at(self, moment: float, after: float = 0.0) -> bool:
        """Whether it was at work then, or up to ``after`` seconds before; clocks tell seconds."""
        return self.started - 1 <= moment <= self.ended + after


class Call(Settings):
    """A Snakemake that has ended, and the warm process with all of its forks."""

    started: float
    ended: float
    cpu_s: float
    server_cpu_s: float


class PaperTime(Settings):
    """CPU seconds of one paper's runs, and of what surrounds them, in their jobs and in others.

    ``share`` is all of ``surroundings_s`` over what the runs took whose jobs are accounted for;
    None where those are none, or some that draw are not accounted for.
    """

    paper: str
    runs: int
    cpu_s: float
    wall_s: float
    accounted_runs: int
    accounted_cpu_s: float
    products: int
    accounted_products: int
    surroundings_s: dict[str, float] = Field(description="in runs' jobs, tables, figures, ...")

    @property
    def is_drawn(self) -> bool:
        """Whether all that is made of its records is accounted for."""
        return self.accounted_products == self.products

    @property
    def share(self) -> float | None:
        """What surrounds the runs over what they take themselves."""
        if not self.is_drawn or not self.accounted_cpu_s:
            return None
        return sum(self.surroundings_s.values()) / self.accounted_cpu_s


class ExperimentTime(Settings):
    """What the runs of one experiment took."""

    paper: str
    experiment: str
    runs: int
    cpu_s: float
    wall_s: float


class HouseTime(Settings):
    """What all papers took, and what they share: summaries, report, Snakemake.

    Attributes:
        shared_s: CPU seconds by what took them; None is not accounted for.
        calls: Snakemakes that ran the jobs accounted for.
        pending: jobs whose Snakemake is at work still, or was killed: what it took is not known.
    """

    papers: list[PaperTime]
    shared_s: dict[str, float | None]
    calls: int
    pending: int
    slowest: list[ExperimentTime]

    @property
    def share(self) -> float | None:
        """What surrounds all runs over what they take; None where a part is not known."""
        own = sum(paper.accounted_cpu_s for paper in self.papers)
        if self.pending or not own or any(not paper.is_drawn for paper in self.papers):
            return None
        around = sum(sum(paper.surroundings_s.values()) for paper in self.papers)
        return (around + sum(filter(None, self.shared_s.values()))) / own


class Journal:
    """The lines of ``jobs.jsonl``, of which :meth:`job` gives those that still count.

    Raises:
        InputError: a line is not one that is written there.
    """

    def __init__(self, path: Path) -> None:
        text = path.read_text(encoding="utf8") if path.is_file() else ""
        self._jobs: list[Job] = []
        self._calls: list[Call] = []
        for number, line in enumerate(text.splitlines(), start=1):
            where = f"{path}: line {number}"
            try:
                data: Any = parse_json(line)
            except ValueError as error:
                raise InputError(f"{where}: not a job ({error}); the file can be removed") from None
            if isinstance(data, dict) and "words" in data:
                self._jobs.append(validated(Job, data, where))
            else:
                self._calls.append(validated(Call, data, where))
        self._last = {tuple(job.words): job for job in self._jobs if job.status == 0}
        self._counted: list[Job] = []

    def job(self, words: Sequence[str], moment: float, after: float = 0.0) -> Job | None:
        """The last job of these words, if it made what was made at ``moment``; it counts then."""
        job = self._last.get(tuple(words))
        if job is None or not job.ran_at(moment, after):
            return None
        self._counted.append(job)
        return job

    def making(self, path: Path, *words: str) -> Job | None:
        """The job that made a file; None where the file is not there, or made otherwise."""
        words = ("-m", "common.results", *words)
        return self.job(words, path.stat().st_mtime, TOUCHED) if path.is_file() else None

    def calls(self) -> tuple[list[Call], int]:
        """Snakemakes of the jobs that count, and how many of these jobs have none."""
        ran = {
            index: next((call for call in self._calls if _in(job, call)), None)
            for index, job in enumerate(self._counted)
        }
        calls = [call for call in self._calls if call in ran.values()]
        return calls, sum(1 for call in ran.values() if call is None)

    def own_s(self, call: Call) -> float:
        """What the warm process took without its forks: it loads the libraries."""
        forks = sum(job.cpu_s + job.children_cpu_s for job in self._jobs if _in(job, call))
        return max(call.server_cpu_s - forks, 0.0)


def _in(job: Job, call: Call) -> bool:
    """Whether a Snakemake ran a job: there is one at a time in a folder."""
    return call.started <= job.ended <= call.ended


def house_time(root: Path, scale: Scale, results: Path, journal: Path) -> HouseTime:
    """Where the time of all papers went whose records and products lie in ``results``."""
    lines = Journal(journal)
    papers, slowest = [], []
    for folder in find_papers(root):
        paper = load_paper(folder)
        time, experiments = _of_paper(paper, folder, scale, results, lines)
        papers.append(time)
        slowest += experiments
    slowest.sort(key=lambda item: -item.cpu_s)
    shared: dict[str, float | None] = {}
    for name, file in (("summary", "coverage.json"), ("report", "report/index.html")):
        job = lines.making(results / scale / file, name, "--scale", scale)
        shared[name] = _taken(job) if job else None
    calls, pending = lines.calls()
    shared["snakemake"] = sum(call.cpu_s for call in calls)
    shared["libraries"] = sum(map(lines.own_s, calls))
    return HouseTime(
        papers=papers,
        shared_s=shared,
        calls=len(calls),
        pending=pending,
        slowest=slowest[:SLOWEST],
    )


def _of_paper(
    paper: Paper, folder: Path, scale: Scale, results: Path, lines: Journal
) -> tuple[PaperTime, list[ExperimentTime]]:
    around = {"runs": 0.0}
    accounted_runs, accounted_cpu_s = 0, 0.0
    experiments = []
    for name in paper.experiments:
        cpu_s = wall_s = 0.0
        records = [
            load_record(key, results)
            for key in paper.runs(scale, [name])
            if key.record(results).exists()
        ]
        for record in records:
            own = record.provenance.cpu_s
            if job := _find_job(record, lines):
                own += job.children_cpu_s  # worker processes of the run
                around["runs"] += max(job.cpu_s - record.provenance.cpu_s, 0) + job.client_cpu_s
                accounted_runs, accounted_cpu_s = accounted_runs + 1, accounted_cpu_s + own
            cpu_s, wall_s = cpu_s + own, wall_s + record.provenance.wall_s
        experiments.append(
            ExperimentTime(
                paper=paper.paper, experiment=name, runs=len(records), cpu_s=cpu_s, wall_s=wall_s
            )
        )
    products = list(_products(paper, folder, scale, results))
    made = [(kind, lines.making(path, *words)) for kind, path, words in products]
    for kind, job in made:
        around[kind] = around.get(kind, 0.0) + (_taken(job) if job else 0.0)
    time = PaperTime(
        paper=paper.paper,
        runs=sum(item.runs for item in experiments),
        cpu_s=sum(item.cpu_s for item in experiments),
        wall_s=sum(item.wall_s for item in experiments),
        accounted_runs=accounted_runs,
        accounted_cpu_s=accounted_cpu_s,
        products=len(made),
        accounted_products=sum(1 for _, job in made if job),
        surroundings_s=around,
    )
    return time, experiments


def _find_job(record: Record, lines: Journal) -> Job | None:
    """The job that made a record."""
    started = datetime.fromisoformat(record.provenance.started_at).timestamp()
    return lines.job(record.key.command.split()[1:], started)


def _products(
    paper: Paper, folder: Path, scale: Scale, results: Path
) -> Iterable[tuple[str, Path, tuple[str, ...]]]:
    """Kind, file and command of all that is made of the paper's records."""
    for target, body in paper.targets.items():
        path = target_file(results, scale, paper, target)
        yield f"{body.kind}s", path, (body.kind, paper.paper, target, "--scale", scale)
    if (folder / "claims.yaml").is_file():
        path = results / scale / paper.paper / "claims.json"
        yield "claims", path, ("claims", paper.paper, "--scale", scale)


def _taken(job: Job) -> float:
    """CPU seconds of a job that draws, with all that it started and that started it."""
    return job.cpu_s + job.children_cpu_s + job.client_cpu_s


def read_house_time(results: Path, scale: Scale) -> HouseTime | None:
    """What was measured; None if nothing was."""
    path = results / scale / "house_time.json"
    return validated(HouseTime, read_json(path, "JSON"), str(path)) if path.is_file() else None
