"""A small search of settings, as large for every method: one run tries all on its own seed.

What it found stands in its record, and is what ``plane`` is run with, on other seeds.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
from pydantic import Field

from common.experiments.settings import validated
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


class SearchSettings(PlaneSettings):
    """As of the plane, and the values that are tried, each with each."""

    tried: dict[str, tuple[float, ...]] = Field(
        min_length=1, description="values by setting, as GROUP.KEY"
    )
    chosen_by: str = Field("reverse_kl_all", description="the metric that is to be lowest")


class Found:
    """Metrics of the candidates so far, part of the resume state."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, Any]:
        """Rows."""
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.rows = list(state["rows"])


def candidates(settings: SearchSettings) -> list[PlaneSettings]:
    """Settings with each combination of values. Raises InputError for one that is not allowed."""
    given = settings.model_dump(exclude={"tried", "chosen_by"})
    made = []
    for values in product(*settings.tried.values()):
        changed = dict(given)
        for path, value in zip(settings.tried, values, strict=True):
            *groups, key = path.split(".")
            place = changed
            for group in groups:
                place[group] = dict(place.get(group) or {})
                place = place[group]
            place[key] = value
        made.append(validated(PlaneSettings, changed, "tried"))
    return made


def run_search(settings: SearchSettings, run: Run) -> dict[str, float]:
    """Train each candidate; return what each came to, and the values of the lowest."""
    core = Core(settings.core, run)
    every = candidates(settings)
    found = Found()
    core.track(found=found)
    core.restore()
    points, judge = load_plane(settings, run)
    data = torch.from_numpy(points).float()
    with run.progress(len(every), "candidates", "") as bar:
        bar.update(len(found.rows))
        for candidate in every[len(found.rows) :]:
            torch.manual_seed(run.seed)  # the same generator and noise for each
            training, before = make_training(candidate, data, run.seed)
            real = endless(Batches(data, size=settings.core.global_batch_size, seed=run.seed))
            looks = Looks(judge_of(judge), settings.judged)
            looks.train(
                training,
                settings.iterations,
                settings.judge_every,
                lambda: next(real),  # noqa: B023
                before,
            )
            found.rows.append(looks.metrics())
            bar.update(1)
            core.completed_step()  # candidates are resumed as wholes
    core.finish()
    return _summary(settings, every, found.rows)


def _summary(
    settings: SearchSettings, every: list[PlaneSettings], rows: list[dict[str, float]]
) -> dict[str, float]:
    """Values tried and chosen, and the metric of all; one that diverged is never chosen."""
    scores = [float("inf") if row["diverged"] else row[settings.chosen_by] for row in rows]
    # Scores can be equal to the last bit: BourGAN's are those of its noise where it follows it.
    ties = [row.get("reverse_kl", 0.0) for row in rows]
    best = min(range(len(scores)), key=lambda place: (scores[place], ties[place]))
    values = list(product(*settings.tried.values()))[best]
    metrics = {
        "candidates": float(len(every)),
        "diverged": sum(row["diverged"] for row in rows),
        "best": rows[best][settings.chosen_by],
        "worst": max(row[settings.chosen_by] for row in rows),
        "high_quality_of_best_pct": rows[best].get("high_quality_pct", 0.0),
        "train_s": sum(row["train_s"] for row in rows),
    }
    metrics |= {f"chosen_{place}": value for place, value in enumerate(values)}
    for number, row in enumerate(rows):
        metrics[f"candidate_{number}"] = row[settings.chosen_by]
    return metrics


PROGRAM = Program(SearchSettings, run_search)
