"""Whether a discriminator goes in circles: its values on fixed points along training, Figure 1.

Kernel and network discriminators on the same data, generator, optimiser and batches; beside them
the network under the settings that the authors drew theirs with.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field

from common.runs.programs import Program
from common.runs.run import Run
from common.tasks.batches import Batches
from common.training import Core
from papers.okgan.experiments.plane import (
    PlaneSettings,
    endless,
    judge_of,
    load_plane,
    make_training,
)
from papers.okgan.methods.looks import Looks, shown
from papers.okgan.metrics.trajectory import describe_path


class CyclingSettings(PlaneSettings):
    """As of the plane, and what is looked at."""

    watched: int = Field(500, gt=1, description="real points whose values are followed")
    watch_every: int = Field(5, gt=0, description="iterations")


class Values:
    """Rows of values, part of the resume state."""

    def __init__(self) -> None:
        self.rows: list[list[float]] = []

    def state_dict(self) -> dict[str, object]:
        """Rows."""
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.rows = list(state["rows"])  # type: ignore[call-overload]


def run_cycling(settings: CyclingSettings, run: Run) -> dict[str, float]:
    """Train, and return planarity, swing, turns and revisits of the discriminator's path."""
    core = Core(settings.core, run)
    points, judge = load_plane(settings, run)
    data = torch.from_numpy(points).float()
    training, before = make_training(settings, data, run.seed)
    rows = np.random.default_rng(run.seed).choice(len(data), settings.watched, replace=False)
    watched, values = data[torch.from_numpy(rows)], Values()
    loader = Batches(data, size=settings.core.global_batch_size, seed=run.seed)
    real = endless(loader)
    looks = Looks(judge_of(judge), settings.judged)

    core.track(training=training, loader=loader, values=values, looks=looks)
    core.restore()
    every = settings.judge_every
    with shown(training, core, run, settings.iterations) as completed:

        def watch() -> None:
            if training.count % settings.watch_every == 0:
                with torch.no_grad():
                    values.rows.append(training.discriminator.score(watched).tolist())
            completed()

        looks.train(training, settings.iterations, every, lambda: next(real), before, watch)
    found = describe_path(np.array(values.rows))
    run.write_rows("path.csv", [{"x": float(x), "y": float(y)} for x, y in found.coordinates])
    told = (np.array(values.rows) > 0).mean(axis=1)
    run.write_rows("told_real.csv", [{"share": float(share)} for share in told])
    core.finish()
    return {
        "planarity": found.planarity,
        "swing": found.swing,
        "turns": found.turns,
        "revisits": found.revisits,
        **looks.metrics(),
    }


PROGRAM = Program(CyclingSettings, run_cycling)
