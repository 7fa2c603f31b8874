"""Runs of experiments inside a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common import ROOT
from common.experiments.schema import RunKey, Scale, load_paper
from common.runs.programs import Programs
from common.runs.record import Record, read_record
from common.runs.run import Run
from tests.papers.arms import settings_in

FOLDER = ROOT / "papers" / "mmt_how2"


def settings_of(
    experiment: str, case: str, arm: str, scale: Scale = "smoke", **changes: Any
) -> Any:
    """Settings of an arm in a case at a scale, changed."""
    return settings_in(FOLDER, experiment, arm, scale, case, **changes)


def opened(
    experiment: str, case: str, arm: str, settings: Any, results: Path, scale: str = "smoke"
) -> Run:
    """Context of a run that leaves its record below ``results``."""
    key = RunKey("mmt_how2", experiment, case, arm, 0, scale)
    program = load_paper(FOLDER).experiments[experiment].program
    return Run(key, program, settings, results / key.folder, results / "work")


def record_of(
    experiment: str, case: str, arm: str, results: Path, scale: Scale = "smoke", **changes: Any
) -> tuple[Record, Path]:
    """The record that an arm in a case leaves below ``results``, and its folder."""
    settings = settings_of(experiment, case, arm, scale, **changes)
    with opened(experiment, case, arm, settings, results, scale) as run:
        path = run.finish(Programs(FOLDER)[run.program].run(settings, run))
    return read_record(path), path.parent
