"""Folders of a run: what is never removed, who may enter, and what the system may refuse."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from common import ROOT
from common.runs.files import disk_failure
from common.runs.record import read_record
from tests.common.experiments.test_settings import frame
from tests.common.runs.without_privileges import without_privileges

TRAIN = """
import os, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from common.runs.cli import guarded, paper_main
from common.experiments.settings import Settings
from common.runs.programs import Program
from common.errors import InputError

class Training(Settings):
    mode: str = "rows"

def train(settings, run):
    if settings.mode == "killed once":
        state = run.work / "deep" / "state"
        if state.exists():
            return {{"resumed": 1.0}}
        state.parent.mkdir(parents=True)
        state.write_text("half-way")
        os._exit(9)
    if settings.mode == "asked":
        print("entered", flush=True)
        if sys.stdin.readline() == "fail\\n":
            raise InputError("told to fail")
    if settings.mode == "large":
        run.path("jobs.csv").write_bytes(bytes(300_000))
    if settings.mode == "reads":
        open("no_such_file")
    if settings.mode == "bug":
        raise OSError("no file has to do with it")
    run.write_rows("jobs.csv", [{{"job": settings.mode}}])
    return {{"loss": 1.0}}

guarded(lambda: paper_main(Path(__file__).parent, programs={{"train": Program(Training, train)}}))
"""
OWN = "smoke/tiny/study/main/ours/seed0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder to work in; below it lies a paper of one program that does what ``mode`` says."""
    paper = tmp_path / "tiny"
    paper.mkdir()
    data = frame(experiments__study__settings={}, experiments__study__scales={})
    data["experiments"]["study"]["arms"]["ours"]["settings"] = {}
    (paper / "experiments.yaml").write_text(yaml.safe_dump(data), encoding="utf8")
    (paper / "train.py").write_text(TRAIN.format(root=str(ROOT)), encoding="utf8")
    return tmp_path


def command(*options: str, mode: str = "rows") -> tuple[str, ...]:
    run = ("study", "--case", "main", "--arm", "ours", "--scale", "smoke")
    return (sys.executable, "tiny/train.py", *run, "--set", f"mode={mode}", *options)


def call(
    folder: Path, *options: str, mode: str = "rows", prefix: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (*prefix, *command(*options, mode=mode)),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of a refused command."""
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("out", "work"), [("X/out", "X"), ("X", "X"), ("X", "X/work"), ("X/work/out", "X/work")]
)
def test_a_given_work_folder_keeps_what_the_run_did_not_make(
    folder: Path, out: str, work: str
) -> None:
    """Resume state goes, and nothing else: neither a user's files nor the record."""
    (folder / work).mkdir(parents=True)
    (folder / work / "thesis.txt").write_text("mine")
    words = ("--out", out, "--work", work)
    assert call(folder, *words, mode="killed once").returncode == 9
    assert (folder / work / OWN / "deep" / "state").exists()
    done = call(folder, *words, mode="killed once")
    assert done.returncode == 0, done.stderr
    assert read_record(folder / out / "record.json").metrics == {"resumed": 1.0}
    assert (folder / work / "thesis.txt").read_text() == "mine"
    assert not (folder / work / OWN).exists()


def test_a_killed_run_resumes_from_the_default_folders(folder: Path) -> None:
    state = folder / "work/smoke/tiny/study/main/ours/seed0/deep/state"
    assert call(folder, mode="killed once").returncode == 9
    assert state.exists()
    assert call(folder, mode="killed once").returncode == 0
    assert not state.parent.parent.exists()
    assert (folder / "results/smoke/tiny/study/main/ours/seed0/record.json").exists()


@pytest.mark.parametrize(
    "options",
    [
        ("--out", "work/smoke/tiny/study/main/ours/seed0"),
        ("--out", "work/smoke/tiny/study/main/ours/seed0/out"),
        ("--out", f"X/{OWN}", "--work", "X"),
        ("--out", f"link/{OWN}/out", "--work", "X"),
    ],
)
def test_a_record_among_resume_state_would_be_removed_and_is_refused(
    folder: Path, options: tuple[str, ...]
) -> None:
    (folder / "X").mkdir()
    (folder / "link").symlink_to("X")
    before = sorted(folder.rglob("*"))
    assert "lies in" in refusal(call(folder, *options))
    assert sorted(folder.rglob("*")) == before


@pytest.fixture
def started(folder: Path) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes to be ended with the test."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def test_one_run_at_a_time_enters_where_one_failed_and_removed_the_folder(
    folder: Path, started: list[subprocess.Popen[str]]
) -> None:
    """First holds, second waits, first fails and removes the folder: second is in, third waits."""

    def start() -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command("--out", "X/out", mode="asked"),
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        return process

    def said(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline()

    first = start()
    assert said(first) == "entered\n"
    second = start()
    assert "another process makes this run" in said(second)
    assert first.communicate("fail\n")[0] == "error: told to fail\n"
    assert said(second) == "entered\n"
    third = start()
    assert "another process makes this run" in said(third)
    assert second.communicate("go on\n")[0].endswith("wrote X/out/record.json\n")
    assert said(third) == "entered\n"
    third.communicate("fail\n")
    assert read_record(folder / "X/out/record.json").metrics == {"loss": 1.0}


@pytest.mark.parametrize("link", ["nowhere", "out"])
def test_a_link_to_nowhere_is_no_folder_to_write_to(folder: Path, link: str) -> None:
    (folder / "out").symlink_to(link)
    assert "--out out: cannot be written" in refusal(call(folder, "--out", "out"))


@pytest.mark.parametrize("options", [("--out", ""), ("--work", ""), ("--out", "~no_such_user/x")])
def test_a_folder_without_a_name_is_refused(folder: Path, options: tuple[str, str]) -> None:
    assert f"argument {options[0]}" in refusal(call(folder, *options))
    assert [path.name for path in folder.iterdir()] == ["tiny"]


def test_the_home_is_meant_by_a_tilde(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder / "home"))
    assert call(folder, "--out=~/here").returncode == 0
    assert (folder / "home" / "here" / "record.json").is_file()


def test_seeds_are_below_what_every_generator_takes(folder: Path) -> None:
    assert call(folder, "--seed", str(2**32 - 1)).returncode == 0
    for seed in (str(2**32), "9" * 30, "-1"):
        line = refusal(call(folder, "--seed", seed))
        assert f"--seed {seed}: must be >= 0 and < 4294967296" in line


def limited(size: int) -> tuple[str, ...]:
    """Prefix of a command that may write no file larger than ``size`` blocks of 512 bytes."""
    return ("sh", "-c", f'ulimit -f {size} && exec "$@"', "sh")


def test_a_disk_that_takes_no_more_is_one_line_and_the_old_record_stays(folder: Path) -> None:
    assert call(folder, "--out", "X/out").returncode == 0
    before = contents(folder)
    line = refusal(call(folder, "--out", "X/out", mode="large", prefix=limited(100)))
    assert (
        line == f"error: X/out or work/{OWN.replace('-', '/')}: cannot be written (File too large)"
    )
    assert contents(folder) == before


def test_the_record_needs_room_before_an_artifact_of_the_old_one_is_replaced(
    folder: Path,
) -> None:
    assert call(folder, "--out", "X/out", mode="rows").returncode == 0
    before = contents(folder)
    refusal(call(folder, "--out", "X/out", mode="other", prefix=limited(1)))
    assert contents(folder) == before


def write_python(stream: object) -> None:
    stream.write(bytes(2_000_000))  # type: ignore[attr-defined]


WRITERS = {
    "python": write_python,
    "numpy": lambda stream: np.zeros(200_000).tofile(stream),
    "npz": lambda stream: np.savez(stream, a=np.zeros(200_000)),
    "torch": lambda stream: torch.save(torch.zeros(200_000), stream),
}


@pytest.mark.parametrize("library", WRITERS)
def test_a_full_disk_is_known_by_what_each_library_makes_of_it(library: str) -> None:
    errors = (OSError, RuntimeError)
    with Path("/dev/full").open("wb", buffering=0) as stream, pytest.raises(errors) as caught:
        WRITERS[library](stream)
    assert disk_failure(caught.value)


def test_a_full_disk_is_known_by_the_words_of_a_library_in_rust() -> None:
    words = "Error while serializing: I/O error: No space left on device (os error 28)"
    assert disk_failure(RuntimeError(words)) == "No space left on device"


def test_other_errors_are_none_of_the_disk() -> None:
    for error in (None, OSError("5.jpg"), ValueError("File too large"), FileNotFoundError(2, "x")):
        assert disk_failure(error) == ""


def mounted(size: str) -> tuple[str, ...]:
    """Prefix of a command that finds a file system of ``size`` of its own at ``disk``."""
    script = f'mount -t tmpfs -o size={size} tmpfs disk && "$@"; s=$?; cp -r disk seen; exit $s'
    prefix = ("unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh")
    probe = (*prefix[:5], "mount -t tmpfs tmpfs /mnt")
    if (
        not shutil.which("unshare")
        or subprocess.run(probe, check=False, capture_output=True).returncode
    ):
        pytest.skip("needs to mount a file system: user namespaces are not allowed here")
    return prefix


def test_the_output_may_be_a_file_system_of_its_own(folder: Path) -> None:
    """As a container's volume is; files cannot be moved into it from beside it."""
    (folder / "disk").mkdir()
    done = call(folder, "--out", "disk", prefix=mounted("1m"))
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (folder / "seen").iterdir()) == ["jobs.csv", "record.json"]


def test_a_full_file_system_is_one_line(folder: Path) -> None:
    (folder / "disk").mkdir()
    line = refusal(call(folder, "--out", "disk", mode="large", prefix=mounted("100k")))
    assert line.startswith("error: disk or ")
    assert line.endswith("(No space left on device)")
    assert list((folder / "seen").iterdir()) == []


def test_a_folder_in_place_of_a_file_is_named_and_the_old_record_stays(folder: Path) -> None:
    (folder / "X" / "record.json").mkdir(parents=True)
    line = refusal(call(folder, "--out", "X", mode="killed once"))  # before any work is done
    assert "--out X: its record.json is a folder" in line
    assert not (folder / "work").exists()
    assert call(folder, "--out", "Y").returncode == 0
    (folder / "Y" / "jobs.csv").unlink()
    (folder / "Y" / "jobs.csv").mkdir()
    before = contents(folder)
    assert "Y/jobs.csv: is a folder" in refusal(call(folder, "--out", "Y"))
    assert contents(folder) == before


@pytest.mark.parametrize("option", ["--out", "--work"])
@pytest.mark.parametrize("place", ["file/X", "x" * 300, "read_only/X", "closed/X", "closed/X/X"])
def test_a_folder_that_cannot_be_written_is_named_before_any_work(
    folder: Path, option: str, place: str
) -> None:
    (folder / "file").write_text("a file")
    for name, bits in (("read_only", 0o555), ("closed", 0o666)):
        (folder / name).mkdir()
        (folder / name).chmod(bits)
    try:
        done = call(
            folder, option, place, mode="killed once", prefix=without_privileges()
        )  # 9 if it got to work
        assert f"{option} {place}" in refusal(done)
    finally:
        for name in ("read_only", "closed"):
            (folder / name).chmod(0o755)


def test_an_output_whose_parent_is_read_only_will_do(folder: Path) -> None:
    (folder / "parent" / "out").mkdir(parents=True)
    (folder / "parent").chmod(0o555)
    done = call(folder, "--out", "parent/out", prefix=without_privileges())
    (folder / "parent").chmod(0o755)
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (folder / "parent" / "out").iterdir())
    assert names == ["jobs.csv", "record.json"]


def test_a_read_only_output_keeps_its_record_and_no_work_is_done(folder: Path) -> None:
    assert call(folder, "--out", "X").returncode == 0
    before = contents(folder)
    (folder / "X").chmod(0o555)
    done = call(folder, "--out", "X", mode="killed once", prefix=without_privileges())
    (folder / "X").chmod(0o755)
    assert refusal(done) == "error: --out X: cannot be written (Permission denied)"
    assert contents(folder) == before


def test_without_a_place_for_resume_state_a_run_that_needs_none_is_made(folder: Path) -> None:
    there = folder / "there"
    there.mkdir()
    folder.chmod(0o555)
    done = call(folder, "--out", "there/out", prefix=without_privileges())
    folder.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert "no resume state can be kept" in done.stderr


def test_a_file_that_cannot_be_opened_is_one_line(folder: Path) -> None:
    line = refusal(call(folder, mode="reads"))
    assert line == "error: no_such_file: No such file or directory"


def test_an_error_of_the_system_that_names_no_file_keeps_its_traceback(folder: Path) -> None:
    done = call(folder, mode="bug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_refused_record_leaves_no_temporary_file(folder: Path) -> None:
    refusal(call(folder, "--out", "X/out", prefix=limited(1)))
    assert not any(path.name.startswith(".") for path in folder.rglob("*"))
    assert not os.path.lexists(folder / "X" / "out")
