"""Runs of experiments inside a test, at smoke scale and beside each other in one folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from common import ROOT
from common.experiments.schema import RunKey, Scale, load_paper
from common.experiments.settings import Settings
from common.runs.programs import Programs
from common.runs.record import read_record
from common.runs.run import Run
from tests.papers.arms import settings_in

FOLDER = ROOT / "papers" / "logra"


def settings_of(
    experiment: str, arm: str, scale: Scale = "smoke", case: str | None = None, **changes: Any
) -> Any:
    """Settings of an arm at a scale, changed; of the only case there without one."""
    return settings_in(FOLDER, experiment, arm, scale, case, **changes)


def opened(experiment: str, arm: str, settings: Settings, seed: int = 0) -> Run:
    """Context of a run below the working directory."""
    torch.set_num_threads(1)
    paper = load_paper(FOLDER)
    study = paper.experiments[experiment]
    case = study.case(None, experiment, "smoke")
    key = RunKey("logra", experiment, case, arm, seed, "smoke")
    return Run(key, study.program, settings, Path("results") / key.folder, None, paper.needed(key))


def metrics_of(experiment: str, arm: str, seed: int = 0, **changes: Any) -> dict[str, float]:
    """Metrics of one run."""
    settings = settings_of(experiment, arm, **changes)
    program = Programs(FOLDER)[load_paper(FOLDER).experiments[experiment].program]
    with opened(experiment, arm, settings, seed) as run:
        return read_record(run.finish(program.run(settings, run))).metrics
