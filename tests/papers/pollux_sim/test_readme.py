"""The example in the paper's README runs and says what it promises."""

from __future__ import annotations

import pytest

from tests.papers.pages import run


def test_the_library_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    run("papers/pollux_sim/README.md", parts=1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["job-0", "job-1", "job-2"]
    assert all(int(line.split()[1]) > 60 for line in lines)
