"""The DAG: complete, minimal after a change, and whole again after any kill."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common import ROOT
from common.experiments.schema import SCALES
from common.results.report.house_time import read_house_time
from common.runs.record import read_record
from tests.workflow.conftest import SNAKEMAKE, Checkout, call, environment

RUNS = {
    arm: {f"example_paper/regularisation/digits/{arm}/seed{s}/record.json" for s in range(3)}
    for arm in ("weak", "usual")
}
#: It needs the runs of the arm ``usual``.
NETWORK = {"example_paper/hidden_layer/digits/perceptron/seed0/record.json"}
TABLE = {f"example_paper/tables/table1.{suffix}" for suffix in ("json", "csv", "md", "tex")}
FIGURE = {f"example_paper/figures/figure1.{suffix}" for suffix in ("json", "png", "svg")}
CLAIMS = {"example_paper/claims.json"}
PAGES = {f"{name}.json" for name in ("coverage", "claims", "verdicts", "benchmarks")}
PAGES |= {"report/index.html"}
BENCHMARK = {"example_paper/benchmarks/speed.json"}


def records(checkout: Checkout) -> dict[str, Any]:
    """What must be equal between two builds of the same paper, by run."""
    found = {}
    for path in sorted(checkout.results.glob("*/*/*/*/record.json")):
        record = read_record(path)
        name = str(path.relative_to(checkout.results))
        found[name] = (record.settings, record.metrics, record.artifacts, record.data)
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 300) -> None:
    """Poll ``condition`` until it is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_everything_is_built_and_a_second_time_nothing(built: Checkout) -> None:
    everything = RUNS["weak"] | RUNS["usual"] | NETWORK | TABLE | FIGURE | CLAIMS | PAGES
    for name in everything:
        assert (built.folder / "results" / "smoke" / name).stat().st_size > 0, name
    again = built.snakemake()
    assert again.returncode == 0
    assert "Nothing to be done" in again.stdout + again.stderr


def test_where_time_went_is_measured_and_shown(copy_of_built: Checkout) -> None:
    done = copy_of_built.snakemake("house_time")
    assert done.returncode == 0, done.stderr
    house = read_house_time(copy_of_built.folder / "results", "smoke")
    assert house is not None
    (paper,) = house.papers
    assert paper.accounted_runs == paper.runs == 7
    assert paper.accounted_products == paper.products == 3
    assert all(seconds > 0 for seconds in (*paper.surroundings_s.values(), paper.cpu_s))
    assert all(seconds and seconds > 0 for seconds in house.shared_s.values())
    assert (house.calls, house.pending) == (1, 0)
    assert (house.share or 0) > (paper.share or 0) > 0
    assert copy_of_built.planned() == {"report/index.html"}


def test_changing_an_arm_reruns_that_arm_and_what_depends_on_it(copy_of_built: Checkout) -> None:
    copy_of_built.edit("experiments.yaml", "c: 1.0", "c: 2.0")
    assert copy_of_built.planned() == RUNS["usual"] | NETWORK | TABLE | FIGURE | CLAIMS | PAGES


def test_changing_an_arm_at_another_scale_reruns_nothing_and_draws_the_report(
    copy_of_built: Checkout,
) -> None:
    copy_of_built.edit(
        "experiments.yaml", "settings: {c: 1.0}", "settings: {c: 1.0}, scales: {paper: {c: 3.0}}"
    )
    # It shows archived records of other scales, and says which are stale.
    assert copy_of_built.planned() == {"report/index.html"}


def test_a_new_seed_runs_alone(copy_of_built: Checkout) -> None:
    copy_of_built.edit("experiments.yaml", "{smoke: [0, 1, 2],", "{smoke: [0, 1, 2, 3],")
    new = {f"example_paper/regularisation/digits/{arm}/seed3/record.json" for arm in RUNS}
    assert copy_of_built.planned() == new | NETWORK | TABLE | FIGURE | CLAIMS | PAGES


@pytest.mark.parametrize(
    ("name", "remade"),
    [
        ("papers/example_paper/targets/tables.py", TABLE | PAGES),
        ("papers/example_paper/targets/accuracy_tables.py", TABLE | PAGES),
        ("papers/example_paper/targets/figures.py", FIGURE | PAGES),
        ("papers/example_paper/targets/drawing.py", FIGURE | PAGES),
        ("papers/example_paper/claims.yaml", CLAIMS | PAGES),
        ("papers/example_paper/published.csv", TABLE | FIGURE | PAGES),
        ("papers/example_paper/train.py", set()),
        ("papers/example_paper/experiments/classify.py", set()),
        ("papers/example_paper/perceptron.py", set()),
        ("common/results/tables.py", TABLE | PAGES),
        ("common/results/table_files.py", TABLE | PAGES),
        ("common/results/figures.py", FIGURE | PAGES),
        ("common/results/style.mplstyle", FIGURE | PAGES),
        ("common/results/claims.py", CLAIMS | PAGES),
        ("common/results/records.py", TABLE | FIGURE | CLAIMS | PAGES),
        ("common/results/report/summary.py", PAGES),
        ("common/results/report/report.py", {"report/index.html"}),
        ("common/results/report/page/report.css", {"report/index.html"}),
        ("common/runs/run.py", set()),
    ],
)
def test_editing_a_file_remakes_what_it_makes_and_trains_nothing(
    copy_of_built: Checkout, name: str, remade: set[str]
) -> None:
    path = copy_of_built.folder / name
    path.write_text(path.read_text(encoding="utf8") + "\n", encoding="utf8")
    assert copy_of_built.planned() == remade


@pytest.mark.parametrize(
    "name",
    [
        "papers/example_paper/archive/paper.jsonl",
        "papers/example_paper/archive/paper.repeats.json",
        "results/smoke/example_paper/repeats.json",
    ],
)
def test_archives_and_repeated_runs_are_shown_by_the_report_alone(
    copy_of_built: Checkout, name: str
) -> None:
    (copy_of_built.folder / name).parent.mkdir(exist_ok=True)
    (copy_of_built.folder / name).touch()
    assert copy_of_built.planned() == {"report/index.html"}


def test_retitling_an_arm_draws_again_and_trains_nothing(copy_of_built: Checkout) -> None:
    copy_of_built.edit("experiments.yaml", "Usual regularisation", "Common regularisation")
    assert copy_of_built.planned() == TABLE | FIGURE | PAGES


def test_a_benchmark_is_no_part_of_all_and_enters_the_report_once_run(
    copy_of_built: Checkout,
) -> None:
    assert copy_of_built.planned("benchmarks") == BENCHMARK
    done = copy_of_built.snakemake("benchmarks")
    assert done.returncode == 0, done.stderr
    assert copy_of_built.planned() == PAGES


def test_one_target_asks_for_its_runs_alone(checkout: Checkout) -> None:
    runs = RUNS["weak"] | RUNS["usual"]
    assert checkout.planned("example_paper_table1") == runs | NETWORK | TABLE
    assert checkout.planned("example_paper_figure1") == runs | FIGURE
    assert checkout.planned("claims") == runs | CLAIMS


def test_a_run_waits_for_those_that_it_needs_and_is_remade_after_them(checkout: Checkout) -> None:
    (network,) = NETWORK
    wanted = "results/smoke/" + network
    assert checkout.planned(wanted) == RUNS["usual"] | NETWORK
    assert checkout.snakemake(wanted).returncode == 0
    record = read_record(checkout.folder / wanted)
    folders = {name.removesuffix("/record.json") for name in RUNS["usual"]}
    assert record.needed.keys() == {f"smoke/{name}" for name in folders}
    assert checkout.planned(wanted) == set()
    checkout.edit("experiments.yaml", "c: 1.0", "c: 2.0")
    assert checkout.planned(wanted) == RUNS["usual"] | NETWORK


def test_a_paper_is_built_by_its_name(checkout: Checkout) -> None:
    runs = RUNS["weak"] | RUNS["usual"]
    assert checkout.planned("example_paper") == runs | NETWORK | TABLE | FIGURE | CLAIMS


def test_after_kill_9_of_a_job_and_of_snakemake_the_same_command_ends_in_the_same_records(
    checkout: Checkout, built: Checkout
) -> None:
    def jobs() -> list[int]:
        return [pid for pid in processes() if "train.py" in command_of(pid, checkout.folder)]

    first = checkout.start("example_paper_figure1", EXAMPLE_PAUSE_S="1")
    wait_for(lambda: bool(jobs()))
    os.kill(jobs()[0], signal.SIGKILL)
    assert first.wait(300) != 0
    done_before = len(records(checkout))
    second = checkout.start("example_paper_figure1", EXAMPLE_PAUSE_S="1")
    wait_for(lambda: bool(jobs()))
    second.send_signal(signal.SIGKILL)
    second.wait()
    assert len(records(checkout)) < 6
    last = checkout.snakemake("example_paper_figure1")
    assert last.returncode == 0, last.stderr
    assert done_before < 6
    linear = {name: made for name, made in records(built).items() if name.startswith("regular")}
    assert records(checkout) == linear
    wait_for(lambda: not jobs())


def processes() -> list[int]:
    """Identifiers of all processes."""
    return [int(path.name) for path in Path("/proc").glob("[0-9]*")]


def command_of(pid: int, folder: Path) -> str:
    """Command line of a python process that works in ``folder``, else nothing."""
    try:
        if Path(f"/proc/{pid}/cwd").readlink() != folder:
            return ""
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return b" ".join(words[1:]).decode() if words[0].endswith(b"python") else ""


def test_a_second_snakemake_in_the_folder_is_told_so(checkout: Checkout) -> None:
    first = checkout.start("example_paper_figure1", EXAMPLE_PAUSE_S="4")
    try:
        wait_for((checkout.folder / ".snakemake" / "running").exists)
        time.sleep(0.2)
        second = checkout.snakemake("example_paper_figure1")
        assert second.returncode != 0
        assert "another snakemake is at work in this folder" in second.stderr
    finally:
        first.terminate()
        first.wait(300)


#: Snakemake, which prints how often it looked at its queue.
COUNTING = """
import atexit, sys
from snakemake.cli import main
from snakemake.scheduling.job_scheduler import JobScheduler
select, looks = JobScheduler.job_selector, []
JobScheduler.job_selector = lambda self, jobs: [looks.append(1), select(self, jobs)][1]
atexit.register(lambda: print("looks:", len(looks)))
main(sys.argv[1:])
"""


def test_snakemake_looks_at_its_queue_when_a_job_ends_and_not_every_second(
    checkout: Checkout,
) -> None:
    _, _, _, *words = checkout.command("example_paper_figure1")
    done = subprocess.run(
        (sys.executable, "-c", COUNTING, *words),
        cwd=checkout.folder,
        env=environment({"EXAMPLE_PAUSE_S": "2"}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (looks,) = re.findall(r"^looks: (\d+)$", done.stdout, re.MULTILINE)
    assert int(looks) <= len(RUNS["weak"] | RUNS["usual"]) + 1  # and the figure


def test_a_run_by_hand_makes_the_record_of_the_dag(built: Checkout, tmp_path: Path) -> None:
    words = ("papers/example_paper/train.py", "regularisation", "--arm", "weak", "--scale", "smoke")
    done = subprocess.run(
        (sys.executable, *words, "--out", str(tmp_path / "by_hand")),
        cwd=built.folder,
        env=dict(os.environ, PYTHONPATH=str(built.folder)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    by_hand = read_record(tmp_path / "by_hand" / "record.json")
    of_the_dag = read_record(built.results / "regularisation/digits/weak/seed0/record.json")
    assert by_hand.metrics == of_the_dag.metrics
    assert by_hand.provenance.code == of_the_dag.provenance.code
    assert by_hand.provenance.packages == of_the_dag.provenance.packages


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("scale=huge", ["'scale'", "'smoke', 'laptop' or 'paper'", "'huge'"]),
        ("scal=smoke", ["unknown key 'scal'", "allowed: scale"]),
    ],
)
def test_an_unknown_option_is_one_line(checkout: Checkout, option: str, words: list[str]) -> None:
    done = call(checkout.folder, *SNAKEMAKE, "--dry-run", "--config", option)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "Using workflow" not in line]
    for word in ["error: ", *words]:
        assert word in line


def test_a_malformed_experiment_file_is_one_line(checkout: Checkout) -> None:
    checkout.edit("experiments.yaml", "max_iter: 20}", "max_iter: 20}\n    colour: red")
    done = checkout.snakemake("--dry-run")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "Using workflow" not in line]
    for word in (
        "papers/example_paper/experiments.yaml",
        "regularisation.colour",
        "'red'",
        "allowed:",
    ):
        assert word in line


def test_a_cluster_which_has_no_number_of_cores_parses(checkout: Checkout) -> None:
    """As ``--workflow-profile slurm`` does; a dry run would count as one core."""
    alone = ("benchmarks", "--workflow-profile", "none", "--rulegraph", "--config", "scale=smoke")
    done = call(checkout.folder, *SNAKEMAKE, *alone)
    assert done.returncode == 0, done.stderr
    assert "example_paper_benchmark_speed" in done.stdout


def test_an_arm_that_is_not_in_the_file_is_no_target(checkout: Checkout) -> None:
    done = checkout.snakemake(
        "--dry-run", "results/smoke/example_paper/regularisation/digits/odd/seed0/record.json"
    )
    assert done.returncode != 0
    assert "No rule to produce" in done.stdout + done.stderr


def test_snakemakes_own_report_shows_tables_and_figures(built: Checkout, tmp_path: Path) -> None:
    done = built.snakemake("all", "--report", str(tmp_path / "report.html"))
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "report.html").read_text(encoding="utf8")
    for word in ("table1.csv", "figure1.png", "Accuracy by regularisation"):
        assert word in page


@pytest.mark.parametrize("scale", SCALES)
def test_the_papers_of_this_repository_parse_at_every_scale(scale: str) -> None:
    done = call(
        ROOT, *SNAKEMAKE, "all", "benchmarks", "--dry-run", "--quiet", "--config", f"scale={scale}"
    )
    assert done.returncode == 0, done.stderr


def test_lint_finds_nothing(checkout: Checkout) -> None:
    done = checkout.snakemake("--lint")
    assert done.returncode == 0, done.stdout + done.stderr


def test_snakefiles_are_formatted() -> None:
    files = [ROOT / "Snakefile", *ROOT.glob("workflow/*.smk")]
    command = (SNAKEMAKE[0], "-m", "snakefmt", "--check", *map(str, files))
    done = call(ROOT, *command)
    assert done.returncode == 0, done.stderr


def test_a_checkout_with_braces_in_its_path_is_refused_in_one_line(tmp_path: Path) -> None:
    """Snakemake takes them for wildcards: its own words were a traceback."""
    (tmp_path / "a{b}c").mkdir()
    done = Checkout(tmp_path / "a{b}c").snakemake("--dry-run", "--quiet")
    assert done.returncode == 2
    assert f"error: {tmp_path}/a{{b}}c: Snakemake needs a checkout without" in done.stderr
    assert "Traceback" not in done.stderr
