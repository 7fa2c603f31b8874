"""How much rank, initialisation and damping of LoGra matter.

For each rank the datamodeling score, the correlation with the scores of EKFAC on whole gradients,
and the share of H's trace that the projection keeps; for each damping the datamodeling score at
the settings' rank. The paper states one rank and one damping.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from common.runs.programs import Program
from common.runs.run import Run
from papers.logra.experiments.linear_datamodeling_score import datamodeling_scores
from papers.logra.experiments.subset_retraining import read_retrained
from papers.logra.measures.rank_correlation import pearson
from papers.logra.methods.attribution import InfluenceSettings, LoggedTrainingSet
from papers.logra.tasks.image_task import ImageTask, ImageTaskSettings


class SensitivitySettings(ImageTaskSettings):
    """The influence function that is varied, and its ranks and dampings."""

    attribution: InfluenceSettings
    ranks: tuple[int, ...] = Field((), description="empty without a projection")
    dampings: tuple[float, ...] = Field(description="relative to the mean eigenvalue")


def run_sensitivity(settings: SensitivitySettings, run: Run) -> dict[str, float]:
    """Score one model with every rank and damping."""
    retrained = read_retrained(run.needed("retrained"))
    outputs = retrained.margins.mean(1)
    task = ImageTask(settings, run)
    train, test = task.images.train, task.images.test
    model = task.model(run.seed)

    def varied(**changes: object) -> LoggedTrainingSet:
        changed = settings.attribution.model_copy(update=changes)
        return LoggedTrainingSet(changed, model, train, run.seed, run.work / "log")

    def lds(scores: Tensor) -> float:
        return float(datamodeling_scores(scores, retrained.masks, outputs).nan_to_num().mean())

    whole = varied(projection="none", hessian="ekfac")
    reference = whole.scores(test).flatten()
    everything = trace(whole)
    metrics = {}
    for rank in settings.ranks:
        logged = varied(rank=rank)
        scores = logged.scores(test)
        metrics[f"lds_rank_{rank}"] = lds(scores)
        metrics[f"ekfac_correlation_rank_{rank}"] = float(pearson(scores.flatten(), reference))
        metrics[f"trace_share_rank_{rank}"] = trace(logged) / everything
    logged = varied()
    for damping in settings.dampings:
        metrics[f"lds_damping_{damping:g}"] = lds(logged.scores(test, damping))
    return metrics


def trace(logged: LoggedTrainingSet) -> float:
    """Trace of the projected H: the mean squared length of a training sample's gradient."""
    return float(logged.gradient_norms().double().square().mean())


PROGRAM = Program(SensitivitySettings, run_sensitivity)
