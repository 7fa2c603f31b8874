"""What storing gradients in fewer bits does to scores.

As in a session, H and the queries' gradients are those that were computed; only the training
gradients have been through the store. Errors are of scores against those of the gradients as they
were computed, and relative to the root mean square of a query's scores: most scores of a query are
near zero, and an error that is large beside one of those moves nothing on the query's list.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.runs.programs import Program
from common.runs.run import Run
from papers.logra.experiments.linear_datamodeling_score import datamodeling_scores
from papers.logra.experiments.subset_retraining import read_retrained
from papers.logra.log_store.manifest import DtypeName
from papers.logra.measures.disk_usage import folder_bytes
from papers.logra.measures.rank_correlation import spearman
from papers.logra.methods.attribution import InfluenceSettings, LoggedTrainingSet
from papers.logra.tasks.image_task import ImageTask, ImageTaskSettings

#: Length of the lists of most valuable samples that are compared.
LISTED = 10


class StorePrecisionSettings(ImageTaskSettings):
    """The influence function whose gradients are stored, and as what."""

    attribution: InfluenceSettings
    dtype: DtypeName


def run_store_precision(settings: StorePrecisionSettings, run: Run) -> dict[str, float]:
    """Score one model's queries from the store; returns bytes, errors and datamodeling score."""
    retrained = read_retrained(run.needed("retrained"))
    task = ImageTask(settings, run)
    train, test = task.images.train, task.images.test
    model = task.model(run.seed)

    def logged(folder: str, dtype: DtypeName) -> LoggedTrainingSet:
        return LoggedTrainingSet(
            settings.attribution, model, train, run.seed, run.work / folder, dtype
        )

    exact = logged("exact", "float32").scores(test)
    stored = logged("log", settings.dtype)
    found = stored.scores(test)
    by_margin = datamodeling_scores(found, retrained.masks, retrained.margins.mean(1))
    return {
        "stored_bytes": float(folder_bytes(stored.run.build_log_dataset().store.folder)),
        **differences(found, exact),
        "lds": float(by_margin.nan_to_num().mean()),
    }


def differences(found: Tensor, exact: Tensor) -> dict[str, float]:
    """How far scores (queries, n) are from exact ones, the worst and on average.

    Errors are relative to each query's root mean square; rank correlations are Spearman's of each
    query; the overlap is of its lists of the highest scores, 1 where they hold the same samples.
    """
    size = exact.double().square().mean(1, keepdim=True).sqrt()
    errors = (found.double() - exact.double()).abs() / size
    ranks = spearman(found.mT, exact.mT)
    listed = torch.stack([_highest(found), _highest(exact)])
    shared = listed.all(0).sum(1) / listed[1].sum(1)
    return {
        "largest_error": float(errors.max()),
        "mean_error": float(errors.mean()),
        "mean_rank_correlation": float(ranks.mean()),
        "worst_rank_correlation": float(ranks.min()),
        "top_10_overlap": float(shared.mean()),
    }


def _highest(values: Tensor) -> Tensor:
    """(queries, n) whether each score is among its query's highest."""
    best = values.topk(min(LISTED, values.shape[1]), 1).indices
    return torch.zeros_like(values, dtype=torch.bool).scatter_(1, best, True)


PROGRAM = Program(StorePrecisionSettings, run_store_precision)
