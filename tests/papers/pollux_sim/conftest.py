"""The measured traces, where they are there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from common import ROOT
from papers.pollux_sim.applications import APPLICATIONS
from papers.pollux_sim.traces import TraceApplication


@pytest.fixture(scope="session")
def pollux_data() -> Path:
    """Folder with the artifact's traces, workloads and results."""
    root = Path(os.environ.get("REPRO_DATA", ROOT.parent / "shared" / "data"))
    if not (root / "pollux" / "traces").is_dir():
        pytest.skip("the Pollux traces are not there; set REPRO_DATA to the folder of pollux/")
    return root / "pollux"


@pytest.fixture(scope="session")
def traces(pollux_data: Path) -> dict[str, TraceApplication]:
    """All six applications as measured."""
    folder = pollux_data / "traces"
    return {name: TraceApplication(name, folder / name) for name in APPLICATIONS}
