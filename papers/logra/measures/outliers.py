"""Who stands on the lists of most valuable samples: outliers, or samples like the query?

Plain influence favours training samples with large gradients; l-RelatIF divides their size out.
Source: Choe et al. 2024, Sec. 4.2; Barshan et al. 2020.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from papers.logra.methods.attribution import InfluenceSettings, LoggedTrainingSet
from papers.logra.tasks.samples import Samples

#: Length of a list, and share of the training samples that count as outliers.
LISTED: Final = 10
OUTLIERS: Final = 0.02


def outlier_metrics(
    scores: Tensor, model: nn.Module, train: Samples, queries: Samples, folder: Path
) -> dict[str, float]:
    """Shares of all lists that are outliers, and of the query's class; samples on any list.

    Args:
        scores: (queries, train).
        model: whose gradients tell outliers.
        train, queries: images with classes.
        folder: as of :class:`LoggedTrainingSet`.
    """
    whole = InfluenceSettings(projection="none", hessian="none")
    outliers = largest(LoggedTrainingSet(whole, model, train, 0, folder).gradient_norms())
    same = train.y.cpu()[list_highest(scores)] == queries.y.cpu()[:, None]
    return {**list_metrics(scores, outliers), "same_class_share": float(same.float().mean())}


def list_highest(scores: Tensor) -> Tensor:
    """(queries, train) scores -> (queries, LISTED) places of the highest."""
    return scores.topk(LISTED, 1).indices


def list_metrics(scores: Tensor, outliers: Tensor, samples: str = "samples") -> dict[str, float]:
    """Share of all lists' entries that are outliers, and how many different samples are listed.

    Args:
        scores: (queries, train).
        outliers: places of training samples.
        samples: what these are called.
    """
    listed = list_highest(scores)
    return {
        "outlier_share": float(torch.isin(listed, outliers).float().mean()),
        f"listed_{samples}": float(len(torch.unique(listed))),
    }


def largest(norms: Tensor) -> Tensor:
    """Places of the share of samples with the longest gradients that count as outliers."""
    return norms.topk(max(1, round(OUTLIERS * len(norms)))).indices
