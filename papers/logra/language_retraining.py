"""Language models retrained on random halves of their sequences, for the datamodeling score.

As :mod:`papers.logra.subset_retraining` of images: a run makes the share of its seed, and together
they serve all methods. Source: Choe et al. 2024, App. C.1.
"""

from __future__ import annotations

import torch
from pydantic import Field
from safetensors.torch import save_file

from common.config import Program
from common.errors import InputError
from common.run import Run
from papers.logra.language_models import measured
from papers.logra.language_task import LanguageTask, LanguageTaskSettings
from papers.logra.subset_retraining import FILE, RETRAINING_SEED, half_subsets


class LanguageRetrainingSettings(LanguageTaskSettings):
    """Which subsets, and how often."""

    subsets: int = Field(gt=1, description="half subsets, of all runs together")
    retrainings: int = Field(gt=0, description="models of each subset")
    shares: int = Field(gt=0, description="runs, of seeds 0, 1, ..., that share the subsets")


def run_language_retraining(settings: LanguageRetrainingSettings, run: Run) -> dict[str, float]:
    """Retrain this share of the subsets; returns the models' mean perplexity of the queries."""
    if run.seed >= settings.shares:
        raise InputError(f"--seed {run.seed}: allowed: 0 to {settings.shares - 1}, one each share")
    task = LanguageTask(settings, run)
    train, queries = task.corpus.train, task.corpus.queries
    chosen = torch.arange(run.seed, settings.subsets, settings.shares)
    subsets = half_subsets(settings.subsets, len(train.x))[chosen]
    found = []
    with run.progress(len(chosen) * settings.retrainings, "retrainings") as bar:
        for subset, places in zip(chosen.tolist(), subsets, strict=True):
            for again in range(settings.retrainings):
                # A model's seed follows from its subset and repetition alone, not from who trains.
                seed = RETRAINING_SEED + subset * settings.retrainings + again
                found.append(measured(task.model(seed, places), queries))
                bar.update()
    losses, margins = (torch.stack(part).cpu() for part in zip(*found, strict=True))
    shape = (len(chosen), settings.retrainings, len(queries.x))
    masks = torch.zeros(len(chosen), len(train.x), dtype=torch.bool)
    tensors = {
        "places": chosen,
        "masks": masks.scatter_(1, subsets, True),
        "losses": losses.view(shape),
        "margins": margins.view(shape),
    }
    save_file(tensors, run.path(FILE))
    return {"perplexity": float((losses / queries.y.shape[1]).exp().mean())}


PROGRAM = Program(LanguageRetrainingSettings, run_language_retraining)
