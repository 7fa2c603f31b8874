"""Where processor time goes: what of the journal counts, and what is told as not accounted for."""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from common.errors import InputError
from common.experiments.schema import load_paper
from common.results.report.house_time import HouseTime, house_time, read_house_time
from common.results.report.summary import write_json
from common.runs.record import read_record
from tests.common.results.example_results import write_paper, write_records

#: A run's record says 29 s; its job took one more, and its worker 3.
RUN = {"cpu_s": 30.0, "children_cpu_s": 3.0, "client_cpu_s": 0.5}
DRAWN = {"cpu_s": 1.0, "children_cpu_s": 0.25, "client_cpu_s": 0.25}
#: When all else was made, in seconds since the epoch.
NOON = 1_800_000_000.0


class House:
    """A paper whose every run and product has its line in the journal."""

    def __init__(self, root: Path) -> None:
        self.root, self.results, self.journal = root, root / "results", root / "jobs.jsonl"
        folder = write_paper(root)
        self.lines: list[dict[str, Any]] = []
        for path in write_records(folder, self.results, "smoke"):
            record = read_record(path)
            at = datetime.fromisoformat(record.provenance.started_at).timestamp()
            self.add(record.key.command.split()[1:], at, **RUN)
        kept = self.results / "smoke" / "annealing"
        for target, body in load_paper(folder).targets.items():
            self.made(kept / f"{body.kind}s" / f"{target}.json", body.kind, "annealing", target)
        self.made(kept / "claims.json", "claims", "annealing")
        self.made(self.results / "smoke" / "coverage.json", "summary")
        self.made(self.results / "smoke" / "report" / "index.html", "report")
        jobs = sum(line["cpu_s"] + line["children_cpu_s"] for line in self.lines)
        # The Snakemake of all of them, and one that made nothing which is still there.
        self.calls = [
            {"started": 1e9, "ended": NOON + 50, "cpu_s": 4.0, "server_cpu_s": jobs + 6.0},
            {"started": 1e8, "ended": 2e8, "cpu_s": 9.0, "server_cpu_s": 9.0},
        ]

    def add(self, words: list[str], started: float, status: int = 0, **took: float) -> None:
        line = {"words": words, "status": status, "started": started, "ended": started + 40}
        self.lines.append(line | took)

    def made(self, path: Path, *words: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (NOON + 41, NOON + 41))  # Snakemake touches what a job has made
        self.add(["-m", "common.results", *words, "--scale", "smoke"], NOON, **DRAWN)

    def measured(self, calls: int = 1) -> HouseTime:
        lines = [*self.lines, *self.calls[:calls]]
        self.journal.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf8")
        return house_time(self.root, "smoke", self.results, self.journal)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_every_second_is_counted_once_where_it_was_spent(house: House) -> None:
    found = house.measured()
    (paper,) = found.papers
    assert (paper.runs, paper.accounted_runs) == (9, 9)
    assert (paper.cpu_s, paper.accounted_cpu_s, paper.wall_s) == (9 * 32, 9 * 32, 9 * 30)
    assert paper.surroundings_s == {"runs": 9 * 1.5, "tables": 1.5, "figures": 3.0, "claims": 1.5}
    assert (paper.products, paper.accounted_products) == (4, 4)
    assert paper.share == pytest.approx((13.5 + 6) / 288)
    assert found.shared_s == pytest.approx(
        {"summary": 1.5, "report": 1.5, "snakemake": 4, "libraries": 6}
    )
    assert (found.calls, found.pending) == (1, 0)
    assert found.share == pytest.approx((13.5 + 6 + 13) / 288)
    (slowest,) = found.slowest
    assert (slowest.paper, slowest.experiment) == ("annealing", "search")
    assert (slowest.runs, slowest.cpu_s, slowest.wall_s) == (9, 288, 270)


def test_jobs_that_were_repeated_or_failed_are_not_added(house: House) -> None:
    before = house.measured()
    current = list(house.lines)
    house.lines = []
    for line in current:
        house.add(line["words"], line["started"] - 1e6, cpu_s=99, children_cpu_s=9, client_cpu_s=9)
    house.lines += current
    for line in current:
        house.add(line["words"], line["started"] + 50, 1, cpu_s=9, children_cpu_s=9, client_cpu_s=9)
    assert house.measured().papers == before.papers


def test_a_call_none_of_whose_jobs_counts_is_left_out(house: House) -> None:
    assert house.measured(calls=2) == house.measured(calls=1)


def test_what_was_made_without_the_warm_process_is_told(house: House) -> None:
    run, table = house.lines[0], house.lines[9]
    run["started"] -= 1000  # an older job; the record was made since, by hand
    run["ended"] -= 1000
    (paper,) = house.measured().papers
    assert (paper.runs, paper.accounted_runs) == (9, 8)
    assert (paper.cpu_s, paper.accounted_cpu_s) == (8 * 32 + 29, 8 * 32)
    assert paper.share == pytest.approx((8 * 1.5 + 6) / (8 * 32))
    house.lines.remove(table)
    found = house.measured()
    assert (found.papers[0].products, found.papers[0].accounted_products) == (4, 3)
    assert (found.papers[0].share, found.share) == (None, None)


def test_without_any_line_nothing_is_accounted_for(house: House) -> None:
    found = house_time(house.root, "smoke", house.results, house.root / "none")
    assert found.papers[0].accounted_runs == found.papers[0].accounted_products == 0
    assert found.shared_s["summary"] is found.shared_s["report"] is None
    assert (found.papers[0].share, found.share) == (None, None)
    assert found.papers[0].cpu_s == 9 * 29


def test_before_any_run_there_is_nothing(tmp_path: Path) -> None:
    write_paper(tmp_path)
    found = house_time(tmp_path, "smoke", tmp_path / "results", tmp_path / "none")
    assert (found.papers[0].runs, found.papers[0].share, found.share) == (0, None, None)


def test_a_snakemake_that_has_not_ended_is_told(house: House) -> None:
    found = house.measured(calls=0)
    assert (found.calls, found.pending, found.share) == (0, 15, None)
    assert found.papers[0].share is not None


def test_it_is_read_as_it_was_written(house: House) -> None:
    found = house.measured()
    assert read_house_time(house.results, "smoke") is None
    write_json(house.results / "smoke" / "house_time.json", found.model_dump(mode="json"))
    assert read_house_time(house.results, "smoke") == found


@pytest.mark.parametrize("line", ["{", "[]", '{"words": 3}', '{"started": 1.0}'])
def test_a_line_that_is_no_job_is_named(house: House, line: str) -> None:
    house.measured()
    with house.journal.open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(InputError, match=r"jobs\.jsonl: line 17: "):
        house_time(house.root, "smoke", house.results, house.journal)
