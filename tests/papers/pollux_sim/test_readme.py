"""The example in the paper's README runs and says what it promises."""

from __future__ import annotations

import re

import pytest

from common import ROOT


def test_the_library_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "papers" / "pollux_sim" / "README.md").read_text(encoding="utf8")
    (code,) = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["job-0", "job-1", "job-2"]
    assert all(int(line.split()[1]) > 60 for line in lines)
