"""Samples of a task, and what is measured of a model on each of them.

An image has one class, a sequence has a class (the next token) at each place; losses and margins
of a sample are sums over its places.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional


class Samples(NamedTuple):
    """Inputs (n, ...) with classes (n,), or tokens (n, t) with the next ones (n, t)."""

    x: Tensor
    y: Tensor

    def take(self, chosen: Tensor | slice) -> Samples:
        """Those at places ``chosen``."""
        return Samples(self.x[chosen], self.y[chosen])

    def to(self, device: torch.device) -> Samples:
        """On a device."""
        return Samples(self.x.to(device), self.y.to(device))

    def batches(self, size: int) -> Iterator[tuple[int, Samples]]:
        """All in their order, at most ``size`` at a time, with the place of the first."""
        for start in range(0, len(self.x), size):
            yield start, self.take(slice(start, start + size))


def losses(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each sample: logits (..., n, [t,] classes), y (n, [t]) -> (..., n)."""
    return -_over_places(_log_chances(logits, y), y)


def margins(logits: Tensor, y: Tensor) -> Tensor:
    """log(p / (1 - p)) of the true class's chance p, as :func:`losses`.

    As the true logit less the log of the summed exponentials of the others, which is exact where
    p is almost 1.
    """
    classes = y.expand(logits.shape[:-1]).unsqueeze(-1)
    own = logits.gather(-1, classes).squeeze(-1)
    others = logits.scatter(-1, classes, -torch.inf).logsumexp(-1)
    return _over_places(own - others, y)


def _log_chances(logits: Tensor, y: Tensor) -> Tensor:
    classes = y.expand(logits.shape[:-1]).unsqueeze(-1)
    return functional.log_softmax(logits, -1).gather(-1, classes).squeeze(-1)


def _over_places(values: Tensor, y: Tensor) -> Tensor:
    return values if y.dim() == 1 else values.sum(-1)


@torch.no_grad()
def compute_logits(model: nn.Module, samples: Samples, batch_size: int = 1024) -> Tensor:
    """Logits (n, [t,] classes) of all samples, in evaluation mode."""
    model.eval()
    return torch.cat([model(part.x) for _, part in samples.batches(batch_size)])
