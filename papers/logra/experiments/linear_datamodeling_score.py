"""Linear datamodeling score: do scores predict what training on half of the data does?

The sum of a query's scores over a subset predicts the query's margin after training on that subset
alone. The score is Spearman's correlation of both over subsets, meant over queries.
Source: Choe et al. 2024, Sec. 4.1 and App. C.1; Park et al. 2023.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from common.runs.programs import Program
from common.runs.run import Run
from papers.logra.experiments.subset_retraining import Retrained, read_retrained
from papers.logra.measures.outliers import outlier_metrics
from papers.logra.measures.rank_correlation import spearman
from papers.logra.methods.attribution import AttributionSettings, attribute
from papers.logra.tasks.image_task import ImageTask, ImageTaskSettings
from papers.logra.tasks.samples import compute_logits


class LinearDatamodelingSettings(ImageTaskSettings):
    """Which method; the run's seed is that of the attributed model."""

    attribution: AttributionSettings


def datamodeling_scores(scores: Tensor, masks: Tensor, outputs: Tensor) -> Tensor:
    """Spearman's correlation of each query, (queries,).

    Args:
        scores: (queries, n), positive for proponents.
        masks: (subsets, n) which samples each subset has.
        outputs: (subsets, queries) of models retrained on them, larger for better.
    """
    return spearman(masks.double() @ scores.double().mT, outputs)


class ByQuery(NamedTuple):
    """Datamodeling scores (queries,) where margins, or losses, are what is predicted."""

    margin: Tensor
    loss: Tensor


def scores_by_query(scores: Tensor, retrained: Retrained) -> ByQuery:
    """Datamodeling scores of (queries, n) scores, by margin and by loss."""
    outputs = retrained.margins.mean(1), -retrained.losses.mean(1)
    # A constant column has no ranks; such a query counts as not predicted.
    return ByQuery(
        *(datamodeling_scores(scores, retrained.masks, part).nan_to_num() for part in outputs)
    )


def run_linear_datamodeling(settings: LinearDatamodelingSettings, run: Run) -> dict[str, float]:
    """Score one attributed model; returns the datamodeling score by margin and by loss."""
    retrained = read_retrained(run.needed("retrained"))
    task = ImageTask(settings, run)
    train, test = task.images.train, task.images.test
    model = task.model(run.seed)
    scores = attribute(settings.attribution, model, train, test, run.seed, run.work / "log")
    found = scores_by_query(scores, retrained)
    run.write_json("by_query.json", found.margin.tolist())
    right = compute_logits(model, test).argmax(1) == test.y
    return {
        "lds": float(found.margin.mean()),
        "lds_by_loss": float(found.loss.mean()),
        "accuracy_pct": 100 * float(right.float().mean()),
        **outlier_metrics(scores, model, train, test, run.work / "whole"),
    }


PROGRAM = Program(LinearDatamodelingSettings, run_linear_datamodeling)
