"""Facts of the entry point: any workload file, clear refusals, nothing half-written."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common import ROOT
from common.errors import InputError
from common.runs.record import read_record
from papers.pollux_sim import train
from papers.pollux_sim.experiments.simulate import SimulateSettings
from tests.common.runs.without_privileges import without_privileges

HEADER = "name,time,application,num_replicas,batch_size\n"
JOBS = "cifar10-0,0,cifar10,4,512\nncf-1,100,ncf,1,32768\nbert-2,300,bert,6,384\n"


def command(folder: Path, workload: str, *options: str) -> list[str]:
    """Arguments of ``simulate`` on a file that holds ``workload``."""
    path = folder / "workload.csv"
    path.write_text(workload)
    given = ["--workload", str(path), "--out", str(folder / "out"), "--applications", "fitted"]
    return ["simulate", *given, "--population", "10", "--generations", "5", *options]


def run_main(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    train.main()


@pytest.mark.parametrize("policy", ["pollux", "tiresias", "optimus"])
def test_simulate_writes_a_record_and_one_row_a_job(
    policy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_main(monkeypatch, command(tmp_path, HEADER + JOBS, "--policy", policy, "--nodes", "4"))
    record = read_record(tmp_path / "out" / "record.json")
    with (tmp_path / "out" / "jobs.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["name"] for row in rows] == ["cifar10-0", "ncf-1", "bert-2"]
    times = [int(row["completion_s"]) - int(row["submission_s"]) for row in rows]
    assert times == [int(row["jct_s"]) for row in rows]
    assert record.metrics["avg_jct_s"] == pytest.approx(sum(times) / 3)
    assert record.metrics["makespan_s"] == max(int(row["completion_s"]) for row in rows)
    assert {"p50_jct_s", "p99_jct_s"} <= set(record.metrics)
    assert {item.source for item in record.data} == {"bundled", "file"}


def test_auto_scaling_grows_the_cluster_up_to_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--nodes", "1", "--autoscale", "throughput", "--max-nodes", "3")
    run_main(monkeypatch, command(tmp_path, HEADER + JOBS, *options))
    with (tmp_path / "out" / "timeline.csv").open() as stream:
        sizes = [int(row["num_nodes"]) for row in csv.DictReader(stream)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 1
    assert sizes[-1] > 1
    assert max(sizes) <= 3


@pytest.mark.parametrize(
    ("workload", "options", "said"),
    [
        (HEADER, (), ["workload.csv", "no rows"]),
        (HEADER.replace("time,", "") + JOBS, (), ["workload.csv", "time"]),
        (HEADER + "a,-1,cifar10,1,128\n", (), ["line 2", "time", "-1"]),
        (HEADER + "a,nan,cifar10,1,128\n", (), ["line 2", "time", "nan"]),
        (HEADER + "a,0,gpt9,1,128\n", (), ["application", "gpt9", "cifar10"]),
        (HEADER + "a,0,cifar10,1,99999\n", (), ["batch_size", "99999"]),
        (HEADER + JOBS, ("--nodes", "0"), ["--nodes", "0"]),
        (HEADER + JOBS, ("--nodes", "1"), ["bert-2", "6", "4"]),
        (HEADER + JOBS, ("--gpus-per-node", "65"), ["--gpus-per-node", "65", "64"]),
        (HEADER + JOBS, ("--nodes", "1000000000"), ["--nodes", "1000000000", "100000"]),
        (HEADER + JOBS, ("--p", "1e300"), ["--p", "1e+300", "100"]),
        (HEADER + "a,99999999999999999999,cifar10,1,128\n", (), ["line 2", "time", "10000000000"]),
        (HEADER + f"a,{'9' * 400},cifar10,1,128\n", (), ["line 2", "time", "10000000000"]),
        (HEADER + f"a,0,cifar10,{'9' * 400},128\n", (), ["line 2", "num_replicas"]),
        (HEADER.strip() + ",time\na,0,cifar10,1,128,0\n", (), ["column 'time' is given twice"]),
        (HEADER + JOBS, ("--interval", "0"), ["--interval", "0"]),
        (HEADER + JOBS, ("--interference", "1"), ["--interference", "1"]),
        (HEADER + JOBS, ("--policy", "fifo"), ["--policy", "fifo", "tiresias"]),
        (HEADER + JOBS, ("--seed", "-1"), ["--seed", "-1"]),
        (HEADER + JOBS, ("--seed", "9" * 30), ["--seed", "9" * 30]),
        (HEADER + JOBS, ("--p", "nan"), ["--p", "finite", "nan"]),
        (HEADER + JOBS, ("--p", "inf"), ["--p", "finite", "inf"]),
        (HEADER + JOBS, ("--nodes", "9" * 30), ["--nodes", "9" * 30]),
        (HEADER + JOBS, ("--autoscale", "goodput"), ["max_nodes"]),
    ],
)
def test_unusable_input_is_refused_by_name_and_leaves_no_file(
    workload: str,
    options: tuple[str, ...],
    said: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(InputError) as caught:
        run_main(monkeypatch, command(tmp_path, workload, *options))
    for part in said:
        assert part in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["workload.csv"]


def test_a_byte_order_mark_hides_no_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Excel writes one; and the command says what it simulated and what came of it."""
    run_main(monkeypatch, command(tmp_path, "\ufeff" + HEADER + JOBS, "--policy", "tiresias"))
    source, mean, record = capsys.readouterr().out.splitlines()
    assert source.startswith("applications: ")
    made = json.loads((tmp_path / "out" / "record.json").read_text(encoding="utf8"))
    assert mean == f"average completion time: {made['metrics']['avg_jct_s']:.1f} s, 3 jobs"
    assert record == f"record: {tmp_path / 'out' / 'record.json'}"


def test_traces_are_of_at_most_four_gpus_a_node() -> None:
    raw = {"policy": "tiresias", "workload": "synthetic", "cluster": {"gpus_per_node": 8}}
    assert SimulateSettings(**raw, applications="fitted").cluster.gpus_per_node == 8
    with pytest.raises(ValueError, match="at most 4, on which they were measured"):
        SimulateSettings(**raw, applications="traces")


def test_refusal_is_one_line_and_status_2_and_keeps_the_old_record(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "papers" / "pollux_sim" / "train.py")]
    good = subprocess.run(
        [*script, *command(tmp_path, HEADER + JOBS, "--policy", "tiresias")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert good.returncode == 0, good.stderr
    before = (tmp_path / "out" / "record.json").read_bytes()
    bad = subprocess.run(
        [*script, *command(tmp_path, HEADER, "--policy", "tiresias")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert bad.returncode == 2
    assert bad.stderr.startswith("error: ")
    assert bad.stderr.count("\n") == 1
    assert (tmp_path / "out" / "record.json").read_bytes() == before


def test_a_killed_simulation_started_again_ends_with_the_same_record(tmp_path: Path) -> None:
    """SIGKILL in the middle and once more: metrics and artifacts of an undisturbed run."""
    many = HEADER + "".join(f"cifar10-{i},{30 * i},cifar10,4,512\n" for i in range(12))
    script = [sys.executable, str(ROOT / "papers" / "pollux_sim" / "train.py")]

    def arguments(folder: Path) -> list[str]:
        folder.mkdir(exist_ok=True)
        return [*script, *command(folder, many, "--generations", "40")]

    first = subprocess.Popen(arguments(tmp_path / "killed"), stderr=subprocess.DEVNULL)
    staging = tmp_path / "killed" / ".out.partial"
    while not staging.exists():
        assert first.poll() is None, "ended before it had begun to write"
        time.sleep(0.01)
    first.kill()
    assert first.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "out" / "record.json").exists()
    records = []
    for name in ("killed", "whole"):
        subprocess.run(arguments(tmp_path / name), check=True, stderr=subprocess.DEVNULL)
        record = json.loads((tmp_path / name / "out" / "record.json").read_text())
        records.append({key: record[key] for key in ("metrics", "artifacts")})
    assert records[0] == records[1]


def test_a_folder_named_work_in_the_output_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out" / "work").mkdir(parents=True)
    (tmp_path / "out" / "work" / "thesis.txt").write_text("mine")
    run_main(monkeypatch, command(tmp_path, HEADER + JOBS, "--policy", "tiresias"))
    assert (tmp_path / "out" / "work" / "thesis.txt").read_text() == "mine"
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"work", "record.json", "jobs.csv", "allocations.csv", "timeline.csv"}


def test_code_is_compiled_where_none_can_be_kept(tmp_path: Path) -> None:
    """In a read-only checkout without a writable home; SplitMix64's known first value."""
    for name in ("common", "papers/pollux_sim"):
        kept = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / "checkout" / name, ignore=kept)
    for folder in sorted((tmp_path / "checkout").rglob("*/")):
        folder.chmod(0o555)
    (tmp_path / "home").mkdir(mode=0o555)
    (tmp_path / "temporary").mkdir()
    code = (
        "import numpy as np; from papers.pollux_sim.models import throughput_fit;"
        "from papers.pollux_sim.search import genetic_search;"
        "from papers.pollux_sim.search.random_stream import mix; print(mix(np.uint64(0)))"
    )
    done = subprocess.run(
        (*without_privileges(), sys.executable, "-c", code),
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path / "home"),
            "PYTHONPATH": str(tmp_path / "checkout"),
            "TMPDIR": str(tmp_path / "temporary"),
        },
        cwd=tmp_path / "checkout",
        capture_output=True,
        text=True,
        check=False,
    )
    for folder in (tmp_path / "checkout").rglob("*/"):
        folder.chmod(0o755)
    assert done.stdout == f"{0xE220A8397B1DCDAF}\n", done.stderr
    assert list((tmp_path / "temporary").iterdir()) == []
