"""The search for step size and weight of a method, on a seed of its own, by validation."""

from __future__ import annotations

import math

from pydantic import Field

from common.runs.programs import Program
from common.runs.run import Run
from common.training.checkpoint import Checkpoint
from common.training.local_gpu import claimed_device
from papers.ojr.methods.measures import accuracy_pct, loss_of
from papers.ojr.methods.training import Trained, TrainingSettings, Trial
from papers.ojr.tasks.images import load_images


class SearchSettings(TrainingSettings):
    """As many trials for each method."""

    trials: list[Trial] = Field(min_length=1)


def run_search(settings: SearchSettings, run: Run) -> dict[str, float]:
    """Train once for each trial; the one of the best validation accuracy, then loss, is chosen."""
    run.precision = "float32"
    device = run.hold(claimed_device(settings.device, run))
    split = load_images(settings.images, run)
    bar = run.progress(len(settings.trials) * settings.steps, "steps", "step")
    rows = []
    for place, trial in enumerate(settings.trials):
        checkpoint = Checkpoint(run, f"trial-{place}")
        trained = Trained(
            settings, trial, split.train, None, run.seed, checkpoint, bar.update, device
        )
        loss = loss_of(trained.network, split.validation)
        rows.append(
            {
                "lr": trial.lr,
                "weight": trial.weight,
                "accuracy_pct": accuracy_pct(trained.network, split.validation),
                "loss": loss if math.isfinite(loss) else 1e30,  # a trial that diverged
            }
        )
    bar.close()
    best = max(range(len(rows)), key=lambda row: (rows[row]["accuracy_pct"], -rows[row]["loss"]))
    run.write_rows("trials.csv", rows)
    run.write_json("chosen.json", settings.trials[best].model_dump())
    return {
        "validation_accuracy_pct": rows[best]["accuracy_pct"],
        "chosen_lr": settings.trials[best].lr,
        "chosen_weight": settings.trials[best].weight,
        "trials": float(len(rows)),
    }


PROGRAM = Program(SearchSettings, run_search)
