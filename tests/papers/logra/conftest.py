"""Runs whose folders lie in a fresh place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from papers.logra import LoggingConfig, LogIX


@pytest.fixture
def new_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LogIX]:
    """Runs whose folders lie in a fresh place."""
    monkeypatch.chdir(tmp_path)

    def new(project: str = "project", **logging: Any) -> LogIX:
        return LogIX(project, logging_config=LoggingConfig(log_dtype="float64", **logging))

    return new
