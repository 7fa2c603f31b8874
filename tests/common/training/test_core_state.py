"""Facts of resume states on disk: whole or passed over, and whose they are."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from common.runs.fingerprint import loaded_code
from common.training.resume_state import read_state, states, write_state

CODE = loaded_code()


@pytest.mark.parametrize(
    "damage",
    ["cut", "no manifest", "no state", "not an object", "empty", "nested", "no owner", "no code"],
)
def test_a_damaged_state_is_passed_over(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2, 3):
        write_state(tmp_path, step, {"step": step, "x": torch.arange(step)}, "mine", CODE)
    newest, older = states(tmp_path)
    assert (newest.name, older.name) == ("step-0000000003", "step-0000000002")
    match damage:
        case "cut":
            (newest / "state.pt").write_bytes((newest / "state.pt").read_bytes()[:-1])
        case "no manifest":
            (newest / "manifest.json").unlink()
        case "no state":
            (newest / "state.pt").unlink()
        case "not an object":
            (newest / "manifest.json").write_text("[]")
        case "empty":
            (newest / "manifest.json").write_text("")
        case "nested":
            (newest / "manifest.json").write_text(100_000 * "[")
        case "no owner" | "no code":
            content = json.loads((newest / "manifest.json").read_text())
            del content["fingerprint" if damage == "no owner" else "code"]
            (newest / "manifest.json").write_text(json.dumps(content))
    (tmp_path / ".writing").mkdir()  # what a kill leaves
    with caplog.at_level(logging.WARNING):
        found = read_state(tmp_path, "mine")
    assert found is not None
    assert found[0]["step"] == 2
    assert "step-0000000003: passed over, it is damaged" in caplog.text
    write_state(tmp_path, 4, {"step": 4}, "mine", CODE)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-0000000003",
        "step-0000000004",
    ]


def test_a_state_saved_by_other_code_is_taken_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_state(tmp_path, 1, {"step": 1}, "mine", CODE)
    assert read_state(tmp_path, "mine") == ({"step": 1}, set())
    assert "other code" not in caplog.text
    manifest = tmp_path / "step-0000000001" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["code"]["common/seeds.py"]["seed_python"] = "0" * 16
    manifest.write_text(json.dumps(content))
    assert read_state(tmp_path, "mine") == ({"step": 1}, {"common/seeds.py"})
    assert "was saved by other code (common/seeds.py: seed_python)" in caplog.text


def test_no_state_is_no_state(tmp_path: Path) -> None:
    assert read_state(tmp_path / "absent", "mine") is None
