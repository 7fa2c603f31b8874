"""A small search of settings, as large for every method: values, each with each, on one seed."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, Final, TypeVar

import torch
from pydantic import Field

from common.experiments.settings import Settings, validated
from common.runs.run import Run
from common.training import Core
from papers.okgan.methods.looks import Looks

#: Metrics of the best that stand beside what it was chosen by, and what they are called there.
OF_BEST: Final = {"high_quality_pct": "high_quality_of_best_pct", "classes": "classes_of_best"}
#: Settings of a training.
T = TypeVar("T", bound=Settings)


class Tried(Settings):
    """What a search adds to the settings of a training."""

    tried: dict[str, tuple[float, ...]] = Field(
        min_length=1, description="values by setting, as GROUP.KEY"
    )
    chosen_by: str = Field(description="the metric that is to be lowest")


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


def candidates(settings: Tried, kind: type[T]) -> list[T]:
    """Settings with each combination of values. Raises InputError for one that is not allowed."""
    given = settings.model_dump(exclude=set(Tried.model_fields))
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
        made.append(validated(kind, changed, "tried"))
    return made


def try_all(
    settings: Tried, every: list[T], core: Core, run: Run, train: Callable[[T], Looks]
) -> dict[str, float]:
    """Train each candidate from the run's seed on.

    Args:
        every: candidates, in the order of ``settings.tried``.
        train: trains one; its last look is what it is judged by.

    Returns:
        What each came to, and the values of the lowest.
    """
    found = Found()
    core.track(found=found)
    core.restore()
    with run.progress(len(every), "candidates", "") as bar:
        bar.update(len(found.rows))
        for candidate in every[len(found.rows) :]:
            torch.manual_seed(run.seed)  # the same generator and noise for each
            found.rows.append(train(candidate).metrics())
            bar.update(1)
            core.completed_step()  # candidates are resumed as wholes
    core.finish()
    return summary(settings, found.rows)


def summary(settings: Tried, rows: list[dict[str, float]]) -> dict[str, float]:
    """Values tried and chosen, and the metric of all; one that diverged is never chosen."""
    scores = [float("inf") if row["diverged"] else row[settings.chosen_by] for row in rows]
    # Scores can be equal to the last bit: BourGAN's are those of its noise where it follows it.
    ties = [row.get("reverse_kl", 0.0) for row in rows]
    best = min(range(len(scores)), key=lambda place: (scores[place], ties[place]))
    values = list(product(*settings.tried.values()))[best]
    metrics = {called: rows[best][name] for name, called in OF_BEST.items() if name in rows[best]}
    metrics |= {
        "candidates": float(len(rows)),
        "diverged": sum(row["diverged"] for row in rows),
        "best": rows[best][settings.chosen_by],
        "worst": max(row[settings.chosen_by] for row in rows),
        "train_s": sum(row["train_s"] for row in rows),
    }
    metrics |= {f"chosen_{place}": value for place, value in enumerate(values)}
    for number, row in enumerate(rows):
        metrics[f"candidate_{number}"] = row[settings.chosen_by]
    return metrics
