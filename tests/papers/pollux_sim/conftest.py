"""The measured traces, where they are there."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.data.registry import find
from papers.pollux_sim.applications.applications import APPLICATIONS
from papers.pollux_sim.applications.traces import TraceApplication
from tests.common.data.real_data import skip_without


@pytest.fixture(scope="session")
def pollux_data(data_root: Path) -> Path:
    """Folder with the artifact's traces, workloads and results."""
    skip_without("pollux", data_root)
    return find("pollux", data_root)


@pytest.fixture(scope="session")
def traces(pollux_data: Path) -> dict[str, TraceApplication]:
    """All six applications as measured."""
    folder = pollux_data / "traces"
    return {name: TraceApplication(name, folder / name) for name in APPLICATIONS}
