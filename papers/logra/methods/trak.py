"""TRAK of a single model: random features of the margin's gradient and a linear regression on them.

Source: Park, Georgiev, Ilyas, Leclerc, Madry 2023, with one model and no further retraining, as
in Choe et al. 2024.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from papers.logra.gradients.capture import Capture
from papers.logra.gradients.watching import watched
from papers.logra.tasks.samples import Samples, compute_logits, margins

#: Rows of the projection that are drawn at once.
CHUNK = 1 << 15


def trak_scores(
    model: nn.Module,
    train: Samples,
    queries: Samples,
    dimension: int,
    seed: int,
    *,
    ridge: float = 0.0,
    batch_size: int = 256,
) -> Tensor:
    """Scores (queries, train), positive for proponents.

    ``phi(q)^T (Phi^T Phi + ridge I)^-1 phi(x) (1 - p_x)`` where phi is the projected gradient of
    the margin log(p / (1 - p)) and p_x the model's chance of the true class.

    Args:
        model: trained.
        train, queries: samples with one class each.
        dimension: of the projection.
        seed: of the projection.
        ridge: what is added to the kernel.
        batch_size: gradients held at once.
    """
    features = _features(model, train.batches(batch_size), dimension, seed)
    asked = _features(model, queries.batches(batch_size), dimension, seed)
    kernel = (features.mT @ features).double()
    kernel.diagonal().add_(ridge)
    white = torch.linalg.lstsq(kernel, features.mT.double()).solution
    chances = compute_logits(model, train).softmax(1).gather(1, train.y.unsqueeze(1)).squeeze(1)
    scores: Tensor = (asked.double() @ white) * (1 - chances)
    return scores.float().cpu()


def projected(gradients: Tensor, dimension: int, seed: int) -> Tensor:
    """(n, width) -> (n, dimension), by random signs that keep products in expectation.

    The matrix is drawn in pieces, for all of it may not fit into memory.
    """
    generator = torch.Generator(gradients.device).manual_seed(seed)
    total = gradients.new_zeros(len(gradients), dimension)
    for part in torch.split(gradients, CHUNK, dim=1):
        signs = torch.randint(
            2, (part.shape[1], dimension), generator=generator, device=gradients.device
        )
        total += part @ signs.mul_(2).sub_(1).to(part)
    return total.div_(dimension**0.5)


def _features(
    model: nn.Module, batches: Iterable[tuple[int, Samples]], dimension: int, seed: int
) -> Tensor:
    """Projected gradients of the margin by all weights and biases, (n, dimension)."""
    capture = Capture(model, watched(model), bias=True)
    rows = []
    for _, part in batches:
        with capture.batch() as batch:
            margin = margins(model(part.x), part.y).sum()
            margin.backward()  # type: ignore[no-untyped-call]
        rows.append(projected(batch.matrix, dimension, seed))
    return torch.cat(rows)
