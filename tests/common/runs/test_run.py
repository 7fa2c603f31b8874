"""A run's record: complete or not there, and refused where a number is none."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from common import ROOT
from common.errors import InputError
from common.experiments.schema import RunKey
from common.experiments.settings import Settings, schema_text
from common.runs.files import file_sha256
from common.runs.machine import cpu_threads, git_state, package_versions
from common.runs.record import DataIdentity, Record, read_record
from common.runs.run import Run


class Nothing(Settings):
    """Settings of a program that has none but one."""

    steps: int = 3


KEY = RunKey("tiny", "study", "main", "ours", 5, "smoke")


def open_run(folder: Path) -> Run:
    return Run(KEY, "train", Nothing(), folder / "out" / "seed5", folder / "work" / "seed5")


def make_record(folder: Path, accuracy: float) -> Path:
    with open_run(folder) as run:
        run.write_rows("curve.csv", [{"step": 0, "loss": 1.0}, {"step": 1, "loss": accuracy}])
        return run.finish({"accuracy": accuracy})


def fail_half_way(folder: Path) -> None:
    with open_run(folder) as run:
        run.write_rows("curve.csv", [{"step": 0, "loss": 9.0}])
        run.finish({"accuracy": 1 / 0})


def test_versions_are_those_of_the_installed_packages() -> None:
    found = package_versions()
    assert len(found) > 20
    assert found == {name: metadata.version(name) for name in found}


def test_a_record_holds_identity_settings_metrics_artifacts_and_provenance(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        digits = DataIdentity(name="digits", real=True, source="bundled")
        run.uses(digits)
        run.uses(digits)
        run.write_json("deep/settings.json", {"a": 1})
        run.work.mkdir(parents=True)
        path = run.finish({"accuracy": np.float32(0.5)})
    record = read_record(path)
    assert (record.paper, record.experiment, record.arm) == ("tiny", "study", "ours")
    assert (record.seed, record.scale, record.program) == (5, "smoke", "train")
    assert record.settings == {"steps": 3}
    assert record.data == [digits]
    assert record.metrics == {"accuracy": 0.5}
    artifact = path.parent / "deep" / "settings.json"
    assert record.artifacts["deep/settings.json"].sha256 == file_sha256(artifact)
    assert record.artifacts["deep/settings.json"].bytes == artifact.stat().st_size
    assert record.provenance.packages["numpy"] == np.__version__
    assert 0 <= record.provenance.wall_s < 60
    assert record.provenance.peak_rss_bytes > 10_000_000
    assert not run.work.exists()
    assert Draft202012Validator(json.loads(schema_text(Record))).is_valid(
        json.loads(path.read_text())
    )


def test_a_run_reads_what_another_wrote_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = RunKey("tiny", "pretraining", "main", "ours", 0, "smoke")
    second = Run(KEY, "train", Nothing(), tmp_path / "second", needs={"weights": [first]})
    with (
        second,
        pytest.raises(InputError, match=r"train\.py pretraining .* --seed 0 "),
    ):
        second.needed("weights")
    digits = DataIdentity(name="digits", real=True, source="bundled")
    with Run(first, "train", Nothing(), Path("results") / first.folder) as run:
        run.uses(digits)
        run.write_json("weights.json", [1, 2])
        run.finish({})
    with second:
        (folder,) = second.needed("weights")
        assert json.loads((folder / "weights.json").read_text()) == [1, 2]
        record = read_record(second.finish({}))
    assert list(record.needed) == ["smoke/tiny/pretraining/main/ours/seed0"]
    assert record.data == [digits]
    (folder / "weights.json").write_text("[3]")
    with second, pytest.raises(InputError, match=r"weights\.json: is not the file"):
        second.needed("weights")


def test_an_exception_leaves_the_old_record_and_its_artifacts(tmp_path: Path) -> None:
    path = make_record(tmp_path, 0.25)
    before = {file: file.read_bytes() for file in path.parent.rglob("*")}
    with pytest.raises(ZeroDivisionError):
        fail_half_way(tmp_path)
    assert {file: file.read_bytes() for file in path.parent.rglob("*")} == before
    assert sorted(item.name for item in path.parent.parent.iterdir()) == ["seed5"]


def test_a_first_run_that_fails_leaves_no_record(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        fail_half_way(tmp_path)
    assert list((tmp_path / "out").rglob("*.json")) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_metric_that_is_no_number_is_refused(tmp_path: Path, value: float) -> None:
    path = make_record(tmp_path, 0.25)
    with pytest.raises(InputError, match=r"\['loss'\] are not finite"), open_run(tmp_path) as run:
        run.finish({"accuracy": 1.0, "loss": value})
    assert read_record(path).metrics == {"accuracy": 0.25}


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.common.runs.test_run import open_run
with open_run(Path({folder!r})) as run:
    run.write_rows("curve.csv", [{{"step": 0, "loss": 9.0}}])
    print("half-way", flush=True)
    time.sleep(60)
"""


def start_and_reach_half_way(folder: Path) -> subprocess.Popen[str]:
    code = KILLED.format(root=str(ROOT), folder=str(folder))
    process = subprocess.Popen((sys.executable, "-c", code), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "half-way\n"
    return process


def test_kill_9_leaves_the_old_record_and_the_next_run_replaces_it(tmp_path: Path) -> None:
    path = make_record(tmp_path, 0.25)
    before = {file: file.read_bytes() for file in path.parent.rglob("*")}
    process = start_and_reach_half_way(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert {file: file.read_bytes() for file in path.parent.rglob("*")} == before
    assert read_record(make_record(tmp_path, 0.75)).metrics == {"accuracy": 0.75}
    assert sorted(item.name for item in path.parent.parent.iterdir()) == ["seed5"]


def test_two_processes_never_make_the_same_run_at_once(tmp_path: Path) -> None:
    process = start_and_reach_half_way(tmp_path)
    code = KILLED.format(root=str(ROOT), folder=str(tmp_path))
    second = subprocess.Popen(
        (sys.executable, "-c", code), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert second.stdout is not None
    assert second.stderr is not None
    try:
        assert "another process makes this run" in second.stderr.readline()
        process.kill()
        process.communicate()
        assert second.stdout.readline() == "half-way\n"
    finally:
        second.kill()
        second.communicate()


def test_runs_are_seeded_by_their_seed(tmp_path: Path) -> None:
    drawn = []
    for _ in range(2):
        with open_run(tmp_path) as run:
            drawn.append((run.rng.random(), random.random(), np.random.random()))
    assert drawn[0] == drawn[1]
    assert drawn[0][0] == np.random.default_rng(5).random()


def test_an_output_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match=r"--out .*seed5: cannot be written"), open_run(tmp_path):
        pass
    (tmp_path / "file").write_text("a file")
    run = Run(KEY, "train", Nothing(), tmp_path / "file", tmp_path / "work")
    with pytest.raises(InputError, match="is a file; a folder is needed"), run:
        pass


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not a record"),
        ("[]", "top level"),
        ('{"version": 3}', "key 'paper' is missing"),
    ],
)
def test_what_is_no_record_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        read_record(tmp_path / "record.json")
    assert str(tmp_path / "record.json") in str(caught.value)
    with pytest.raises(InputError, match="no such record"):
        read_record(tmp_path / "none.json")


def test_a_record_with_a_key_of_another_version_is_refused(tmp_path: Path) -> None:
    path = make_record(tmp_path, 0.5)
    data = json.loads(path.read_text())
    for change in ({"version": 1}, {"colour": "red"}, {"seed": -1}):
        path.write_text(json.dumps(data | change))
        with pytest.raises(InputError, match=next(iter(change))):
            read_record(path)


def test_a_record_of_another_version_says_what_to_do(tmp_path: Path) -> None:
    path = make_record(tmp_path, 0.5)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 1}))
    with pytest.raises(InputError, match=r"version 1, of another state .*`make clean`"):
        read_record(path)


@pytest.mark.parametrize(("said", "threads"), [("3", 3), ("4,2", 4), ("", None), ("all", None)])
def test_threads_are_those_that_libraries_are_told(
    monkeypatch: pytest.MonkeyPatch, said: str, threads: int | None
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert cpu_threads() == (threads or len(os.sched_getaffinity(0)))


def test_outside_a_checkout_the_commit_is_unknown(tmp_path: Path) -> None:
    assert git_state(tmp_path) == ("unknown", True)


def test_peak_memory_is_this_program_s_own_not_that_of_the_one_that_started_it() -> None:
    """A child of a process that once held 300 MB reports less."""
    held = bytearray(300_000_000)
    code = "from common.runs.machine import peak_rss_bytes; print(peak_rss_bytes())"
    done = subprocess.run(
        (sys.executable, "-c", code), cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert len(held) == 300_000_000
    assert 10_000_000 < int(done.stdout) < 200_000_000
