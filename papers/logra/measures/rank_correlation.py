"""Spearman's rank correlation, of many columns at once."""

from __future__ import annotations

import torch
from torch import Tensor


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of the ranks in each column: (m, columns) twice -> (columns,).

    Equal values share their mean rank. NaN where a column is constant.
    """
    return pearson(_ranks(a), _ranks(b))


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of each column: (m, columns) twice -> (columns,)."""
    a, b = (values - values.mean(0) for values in (a.double(), b.double()))
    found: Tensor = (a * b).sum(0) / (a.norm(dim=0) * b.norm(dim=0))
    return found


def _ranks(values: Tensor) -> Tensor:
    """Mean ranks in each column, less a constant."""
    columns = values.mT.contiguous()
    ordered = columns.sort(1).values
    below = torch.searchsorted(ordered, columns)
    return (below + torch.searchsorted(ordered, columns, right=True)).mT.double() / 2
