"""Settings of an arm in a case of an experiment, as a test wants them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.experiments.schema import Scale, load_paper
from common.experiments.settings import validated
from common.runs.programs import Programs


def settings_in(
    folder: Path,
    experiment: str,
    arm: str,
    scale: Scale,
    case: str | None = None,
    **changes: Any,
) -> Any:
    """Those of the paper in ``folder`` at a scale, changed; of the only case there without one."""
    paper = load_paper(folder)
    study = paper.experiments[experiment]
    raw = paper.settings(experiment, study.case(case, experiment, scale), arm, scale, changes)
    return validated(Programs(folder)[study.program].settings, raw, arm)
