"""Training of the small torch models beside the corrector: Adam over shuffled mini-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from common.errors import InputError
from common.experiments.settings import Settings
from common.progress import Progress


class Minibatches(Settings):
    """How long and how fast a model learns; the papers state none of it for these models."""

    epochs: int = Field(gt=0)
    batch_size: int = Field(64, gt=0)
    learning_rate: float = Field(0.001, gt=0, description="of Adam")
    decay: Literal["none", "linear"] = Field("none", description="linear: to zero at the end")
    clip_norm: float = Field(5.0, gt=0, description="of the gradient of all weights")


def train(
    network: nn.Module,
    loss: Callable[[Tensor], Tensor],
    count: int,
    settings: Minibatches,
    seed: int,
    progress: Progress | None = None,
) -> list[float]:
    """Train ``network`` in place; the mean loss of each epoch.

    Args:
        loss: of the samples at some places (batch,), one number, averaged over them.
        count: number of samples.
        seed: of the order of the samples, a new permutation each epoch.

    Raises:
        InputError: the loss is no finite number.
    """
    # Its import takes seconds, which whoever only scores need not wait for.
    from torch.optim import Adam

    optimizer = Adam(network.parameters(), lr=settings.learning_rate)
    batches = -(-count // settings.batch_size)
    steps, step = settings.epochs * batches, 0
    bar = (
        progress(settings.epochs, f"train {type(network).__name__}", "epoch") if progress else None
    )
    history = []
    network.train()
    for epoch in epochs(count, settings, seed):
        total = 0.0
        for places in epoch:
            if settings.decay == "linear":
                for group in optimizer.param_groups:
                    group["lr"] = settings.learning_rate * (1 - step / steps)
            value = loss(places)
            optimizer.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)
            optimizer.step()
            total += float(value.detach()) * len(places)
            step += 1
        history.append(total / count)
        if not total < float("inf"):
            raise InputError(
                f"learning_rate {settings.learning_rate}: the loss is {total / count} after "
                f"{len(history)} epochs; a smaller one is needed"
            )
        if bar:
            bar.update(1)
            bar.set_postfix(loss=history[-1])
    if bar:
        bar.close()
    network.eval()
    return history


def epochs(count: int, settings: Minibatches, seed: int) -> Iterator[Sequence[Tensor]]:
    """Of each epoch the places (batch,) of its batches."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(settings.epochs):
        yield torch.split(torch.randperm(count, generator=generator), settings.batch_size)
