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
from papers.logra.curvature.curvatures import Damping
from papers.logra.experiments.linear_datamodeling_score import datamodeling_scores
from papers.logra.experiments.subset_retraining import read_retrained
from papers.logra.measures.rank_correlation import pearson
from papers.logra.methods.attribution import InfluenceFunction, InfluenceSettings
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

    def varied(**changes: object) -> InfluenceFunction:
        changed = settings.attribution.model_copy(update=changes)
        return InfluenceFunction(changed, model, train, run.seed)

    def lds(scores: Tensor) -> float:
        return float(datamodeling_scores(scores, retrained.masks, outputs).nan_to_num().mean())

    whole = varied(projection="none", hessian="ekfac")
    reference = whole.scores(test).flatten()
    everything = trace(whole)
    metrics = {}
    for rank in settings.ranks:
        function = varied(rank=rank)
        scores = function.scores(test)
        metrics[f"lds_rank_{rank}"] = lds(scores)
        metrics[f"ekfac_correlation_rank_{rank}"] = float(pearson(scores.flatten(), reference))
        metrics[f"trace_share_rank_{rank}"] = trace(function) / everything
    function = varied()
    for damping in settings.dampings:
        metrics[f"lds_damping_{damping:g}"] = lds(function.scores(test, Damping(damping)))
    return metrics


def trace(function: InfluenceFunction) -> float:
    """Trace of the projected H: the mean squared length of a training sample's gradient."""
    squares = (float(part.square().sum()) for _, part in function.gradients(function.train))
    return sum(squares) / len(function.train.x)


PROGRAM = Program(SensitivitySettings, run_sensitivity)
