"""Settings of an experiment's arm in a case, as a test wants them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.experiments.schema import load_paper
from common.experiments.settings import validated
from common.runs.programs import Programs


def settings_in(
    folder: Path,
    experiment: str,
    case: str,
    arm: str,
    scale: str,
    **changes: Any,
) -> Any:
    """Those of the paper in ``folder`` at a scale, changed."""
    paper = load_paper(folder)
    raw = paper.settings(experiment, case, arm, scale, changes)  # type: ignore[arg-type]
    return validated(Programs(folder)[paper.experiments[experiment].program].settings, raw, arm)
