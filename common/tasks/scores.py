"""What predictions are worth."""

from __future__ import annotations

from torch import Tensor


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of right classes, %."""
    return 100 * float((logits.argmax(1) == labels).float().mean())


def f1_scores(predicted: Tensor, labels: Tensor, classes: int) -> tuple[float, float]:
    """(micro, macro) F1 of (n,) classes, %.

    Micro is the accuracy, where each sample has one class. A class that is neither predicted nor
    there has an F1 of 0, as in scikit-learn.
    """
    pairs = (labels * classes + predicted).bincount(minlength=classes**2).double()
    table = pairs.reshape(classes, classes)
    right = table.diagonal()
    each = 2 * right / (table.sum(0) + table.sum(1)).clamp(min=1)
    return 100 * float(right.sum() / table.sum()), 100 * float(each.mean())
