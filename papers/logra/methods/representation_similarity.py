"""How alike two samples' last hidden representations are, as a baseline of attribution.

Source: Hanawa, Yokoi, Hara, Inui 2021; what the head of a network sees, meant over tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from papers.logra.tasks.samples import Samples

Similarity = Literal["cosine", "dot"]


def representation_scores(
    model: nn.Module, train: Samples, queries: Samples, similarity: Similarity
) -> Tensor:
    """(queries, train) similarities.

    Args:
        model: with a linear layer ``head`` that sees the representation.
        train, queries: samples.
        similarity: cosine of the angle, or the product.
    """
    asked, kept = (representations(model, part) for part in (queries, train))
    if similarity == "cosine":
        asked, kept = functional.normalize(asked), functional.normalize(kept)
    return (asked @ kept.mT).cpu()


@torch.no_grad()
def representations(model: nn.Module, samples: Samples, batch_size: int = 256) -> Tensor:
    """(n, width) inputs of the head."""
    head = model.head
    assert isinstance(head, nn.Module)
    found: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
    try:
        model.eval()
        for _, part in samples.batches(batch_size):
            model(part.x)
    finally:
        handle.remove()
    values = torch.cat(found)
    return values if values.dim() == 2 else values.mean(1)
