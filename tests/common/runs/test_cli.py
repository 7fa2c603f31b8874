"""The command line of a paper: exit status, one line for bad input, and what --help lists."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from common import ROOT
from common.runs.record import read_record
from tests.common.experiments.test_settings import FRAME, frame

OURS = "study --case main --arm ours"

TRAIN = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from common.runs.cli import guarded, paper_main
from common.experiments.settings import Settings
from common.runs.programs import Program

class Optim(Settings):
    lr: float
    name: str

class Training(Settings):
    steps: int
    optim: Optim

def train(settings, run):
    if settings.steps == 13:
        return {{"loss": float("nan")}}
    return {{"loss": settings.optim.lr * settings.steps + run.seed}}

guarded(lambda: paper_main(Path(__file__).parent, programs={{"train": Program(Training, train)}}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A paper of one program, with its train.py."""
    paper = tmp_path_factory.mktemp("cli") / "tiny"
    paper.mkdir()
    (paper / "experiments.yaml").write_text(yaml.safe_dump(FRAME), encoding="utf8")
    (paper / "train.py").write_text(TRAIN.format(root=str(ROOT)), encoding="utf8")
    return paper


def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "tiny/train.py", *words),
        cwd=folder.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_run_by_hand_writes_the_record_where_the_dag_expects_it(folder: Path) -> None:
    words = ["study", "--case", "main", "--arm", "ours", "--seed", "4", "--scale", "smoke"]
    words += ["--set", "steps=3", "--set", "optim.lr=2"]
    done = call(folder, *words)
    assert done.returncode == 0, done.stderr
    record = read_record(folder.parent / "results/smoke/tiny/study/main/ours/seed4/record.json")
    assert record.metrics == {"loss": 2 * 3 + 4}
    assert record.settings == {"steps": 3, "optim": {"lr": 2.0, "name": "adam"}}
    assert record.provenance.command == ["train.py", *words]


def test_out_and_work_move_the_record(folder: Path, tmp_path: Path) -> None:
    done = call(folder, "study", "--case", "main", "--arm", "theirs", "--out", f"{tmp_path}/here")
    assert done.returncode == 0, done.stderr
    assert read_record(tmp_path / "here" / "record.json").metrics == {"loss": 100.0}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", ["COMMAND"]),
        ("studdy --arm ours", ["studdy", "study"]),
        ("study", ["--arm"]),
        ("study --case main --arm mine", ["--arm 'mine'", "ours, theirs"]),
        (OURS + " --seed -1", ["--seed -1", ">= 0"]),
        (OURS + " --seed one", ["--seed", "'one'"]),
        (OURS + " --scale huge", ["--scale", "'huge'", "laptop"]),
        (OURS + " --colour red", ["--colour"]),
        (OURS + " --set steps", ["--set 'steps'", "key=value"]),
        (
            OURS + " --set stepps=1",
            ["unknown key 'stepps' (value 1)", "optim, steps"],
        ),
        (OURS + " --set steps=many", ["error: --set: key 'steps'", "'many'"]),
        (
            OURS + " --set optim.lr=.nan",
            ["error: --set: key 'optim.lr'", "finite"],
        ),
        (
            OURS + " --set steps=2020-13-45",
            ["--set 'steps=2020-13-45'", "timestamp"],
        ),
        (OURS + " --set steps=13", ["['loss'] are not finite"]),
        (OURS + " --out tiny/train.py", ["--out tiny/train.py", "is a file"]),
    ],
)
def test_bad_input_is_one_line_and_status_2(folder: Path, words: str, expected: list[str]) -> None:
    done = call(folder, *words.split())
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    for word in expected:
        assert word in lines[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"experiments__study__program": "trian"},
            ["experiments.yaml: tiny.study", "'program'", "one of train", "'trian'"],
        ),
        (
            {"experiments__study__settings": {"steps": "many"}},
            ["error: experiments.yaml: tiny.study.main.ours at laptop", "key 'steps'"],
        ),
    ],
)
def test_what_is_wrong_in_the_file_is_said_of_the_file(
    folder: Path, tmp_path: Path, changes: dict[str, object], expected: list[str]
) -> None:
    """Even where ``--set`` changes something else."""
    shutil.copytree(folder, tmp_path / "tiny")
    (tmp_path / "tiny" / "experiments.yaml").write_text(yaml.safe_dump(frame(**changes)))
    done = call(tmp_path / "tiny", *OURS.split(), "--set", "optim.lr=1")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    for word in expected:
        assert word in line


def test_help_lists_experiments_and_arms(folder: Path) -> None:
    top = call(folder, "--help")
    assert top.returncode == 0
    for word in ("A tiny paper", "study", "A study", "Sec. 1"):
        assert word in top.stdout
    sub = call(folder, "study", "--help")
    assert sub.returncode == 0
    for word in ("ours", "Ours", "theirs", "Theirs", "--set KEY=VALUE", "--seed", "--scale"):
        assert word in sub.stdout
