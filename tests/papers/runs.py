"""Runs of a paper's experiments inside a test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from common import ROOT
from common.experiments.schema import RunKey, Scale, load_paper
from common.experiments.settings import Settings
from common.runs.programs import Programs
from common.runs.record import read_record
from common.runs.run import Run
from common.training import core as core_module
from tests.papers.arms import settings_in


class PaperRuns:
    """Of the paper in a folder below ``papers/``."""

    def __init__(self, name: str) -> None:
        self.name, self.folder = name, ROOT / "papers" / name

    def settings(
        self,
        experiment: str,
        arm: str,
        scale: Scale = "smoke",
        case: str | None = None,
        **changes: Any,
    ) -> Any:
        """Settings of an arm at a scale, changed; of the only case there without one."""
        return settings_in(self.folder, experiment, arm, scale, case, **changes)

    def opened(self, experiment: str, settings: Settings, folder: Path, seed: int = 0) -> Run:
        """Context of a run below ``folder``."""
        torch.set_num_threads(1)
        key = RunKey(self.name, experiment, "case", "arm", seed, "smoke")
        return Run(key, experiment, settings, folder / "out", folder / "work")

    def metrics(
        self, experiment: str, settings: Settings, folder: Path, seed: int = 0
    ) -> dict[str, float]:
        """Metrics of one run, but for its time."""
        study = load_paper(self.folder).experiments[experiment]
        program = Programs(self.folder)[study.program]
        with self.opened(experiment, settings, folder, seed) as run:
            record = read_record(run.finish(program.run(settings, run)))
        found: Mapping[str, float] = record.metrics
        return {name: value for name, value in found.items() if name not in study.timed}

    def metrics_after_a_stop(
        self,
        experiment: str,
        settings: Settings,
        folder: Path,
        patch: pytest.MonkeyPatch,
        saves: int = 2,
    ) -> dict[str, float]:
        """Metrics of a run that was stopped at its ``saves``-th resume state and started again."""
        save, count = core_module.Core.save, 0

        def stopping(core: core_module.Core) -> None:
            nonlocal count
            save(core)
            count += 1
            if count == saves:
                raise KeyboardInterrupt

        with patch.context() as patched:
            patched.setattr(core_module.Core, "save", stopping)
            with pytest.raises(KeyboardInterrupt):
                self.metrics(experiment, settings, folder)
        return self.metrics(experiment, settings, folder)
