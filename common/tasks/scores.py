"""What predictions are worth."""

from __future__ import annotations

from torch import Tensor


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of right classes, %."""
    return 100 * float((logits.argmax(1) == labels).float().mean())
