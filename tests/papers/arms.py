"""Settings of an experiment's arm, as a test wants them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.config import Program, load_paper, validated


def settings_in(
    folder: Path,
    programs: Mapping[str, Program],
    experiment: str,
    arm: str,
    scale: str,
    **changes: Any,
) -> Any:
    """Those of the paper in ``folder`` at a scale, changed."""
    paper = load_paper(folder)
    raw = paper.settings(experiment, arm, scale, changes)  # type: ignore[arg-type]
    return validated(programs[paper.experiments[experiment].program].settings, raw, arm)
