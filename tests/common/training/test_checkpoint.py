"""States of a loop inside a run: kept now and then, and for that run alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.errors import InputError
from common.experiments.schema import RunKey
from common.experiments.settings import Settings
from common.runs.fingerprint import EDITED
from common.runs.run import Run
from common.training.checkpoint import Checkpoint, note_code


class Rate(Settings):
    """A program with one setting."""

    rate: float = 1.0


def opened(folder: Path, rate: float = 1.0) -> Run:
    key = RunKey("test", "study", "case", "arm", 0, "smoke")
    return Run(key, "train", Rate(rate=rate), folder / "out", folder / "work")


def test_a_state_is_kept_where_the_last_is_old(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        Checkpoint(run, "line").write(1, lambda: {"x": 1})
        assert not run.work.exists()
        states = Checkpoint(run, "line", seconds=0)
        assert states.read() is None
        for x in (2, 3):
            states.write(x, lambda x=x: {"x": x})  # type: ignore[misc]
        assert Checkpoint(run, "line").read() == {"x": 3}
        assert Checkpoint(run, "another").read() is None
        states.remove()
        assert states.read() is None


def test_a_state_belongs_to_one_run(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        Checkpoint(run, "line", seconds=0).write(1, lambda: {"x": 1})
    with (
        opened(tmp_path, rate=2.0) as run,
        pytest.raises(InputError, match="belongs to a run with other settings"),
    ):
        Checkpoint(run, "line").read()


def test_the_record_of_a_run_that_other_code_began_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as run:
        Checkpoint(run, "line", seconds=0).write(1, lambda: {"x": 1})
        monkeypatch.setattr("common.training.checkpoint.read_state", lambda *_: ({}, {"old.py"}))
        assert "old.py" not in run.code()
        assert Checkpoint(run, "line").read() == {}
        assert "old.py" in run.code()


def test_a_run_that_a_library_resumes_says_that_other_code_began_it(tmp_path: Path) -> None:
    with opened(tmp_path) as run:
        note_code(run)
        note = run.work / "code.json"
        begun = json.loads(note.read_text(encoding="utf8"))
        module = "common/training/checkpoint.py"
        note_code(run)
        assert run.code()[module] == begun[module]
        begun[module]["note_code"] = "another fingerprint"
        note.write_text(json.dumps(begun), encoding="utf8")
        note_code(run)
        assert run.code()[module] != begun[module]
        assert run.code()[module] == dict(EDITED)
