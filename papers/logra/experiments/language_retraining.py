"""Language models retrained on random halves of their sequences, for the datamodeling score.

As :mod:`~papers.logra.experiments.subset_retraining` of images: a run makes the share of its seed,
and together they serve all methods. Source: Choe et al. 2024, App. C.1.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from common.runs.programs import Program
from common.runs.run import Run
from common.training.checkpoint import Checkpoint
from papers.logra.experiments.subset_retraining import SubsetSettings, draw_share
from papers.logra.tasks.language_models import measured
from papers.logra.tasks.language_task import LanguageTask, LanguageTaskSettings
from papers.logra.tasks.resumable import compute_parts


class LanguageRetrainingSettings(SubsetSettings, LanguageTaskSettings):
    """Which models."""


def run_language_retraining(settings: LanguageRetrainingSettings, run: Run) -> dict[str, float]:
    """Retrain this share of the subsets; returns the models' mean perplexity of the queries."""
    task = LanguageTask(settings, run)
    queries = task.corpus.queries
    share = draw_share(settings, run, len(task.corpus.train.x))

    def retrain(seed: int, places: Tensor) -> tuple[Tensor, Tensor]:
        return measured(task.model(seed, places), queries)

    models = zip(share.seeds, share.places, strict=True)
    with run.progress(len(share.seeds), "retrainings") as bar:
        parts = (partial(retrain, *model) for model in models)
        found = compute_parts(parts, Checkpoint(run, "retrainings"), bar.update)
    losses, margins = (torch.stack(part).cpu() for part in zip(*found, strict=True))
    share.save(run, losses, margins)
    return {"perplexity": float((losses / queries.y.shape[1]).exp().mean())}


PROGRAM = Program(LanguageRetrainingSettings, run_language_retraining)
