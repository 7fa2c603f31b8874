"""A search of every method's settings on points in the plane.

What it found stands in its record, and is what ``plane`` is run with, on other seeds.
"""

from __future__ import annotations

import torch

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
from papers.okgan.methods.looks import Looks
from papers.okgan.methods.searching import Tried, candidates, try_all


class SearchSettings(PlaneSettings, Tried):
    """As of the plane, and the values that are tried, each with each."""

    chosen_by: str = "reverse_kl_all"


def run_search(settings: SearchSettings, run: Run) -> dict[str, float]:
    """Train each candidate; return what each came to, and the values of the lowest."""
    core = Core(settings.core, run)
    tried = candidates(settings, PlaneSettings)
    points, judge = load_plane(settings, run)
    data = torch.from_numpy(points).float()

    def train(candidate: PlaneSettings) -> Looks:
        training, before = make_training(candidate, data, run.seed)
        looks = Looks(judge_of(judge), settings.judged)
        real = endless(Batches(data, size=settings.core.global_batch_size, seed=run.seed))
        every = settings.judge_every
        looks.train(training, settings.iterations, every, lambda: next(real), before)
        return looks

    return try_all(settings, tried, core, run, train)


PROGRAM = Program(SearchSettings, run_search)
