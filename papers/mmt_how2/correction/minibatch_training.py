"""Training of the small torch models beside the corrector: Adam over shuffled mini-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from inspect import unwrap
from itertools import islice
from typing import Any, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam

from common.errors import InputError
from common.experiments.settings import Settings
from common.progress import Progress
from common.random_state import global_states, set_global_states


class States(Protocol):
    """Where a training keeps what it goes on from after a kill: tensors and plain values."""

    def read(self) -> dict[str, Any] | None:
        """The newest state; None if there is none."""
        ...

    def write(self, step: int, state: Callable[[], dict[str, Any]]) -> None:
        """Keep the state, or let it be where the last one is recent enough."""
        ...


class EagerAdam(Adam):
    """torch's Adam, which does not load torch's compiler at its first step: seconds of a run."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step, as torch's, without telling a compiler to keep out of it."""
        unwrap(Adam.step)(self, closure)


class Minibatches(Settings):
    """How long and how fast a model learns; the papers state none of it for these models."""

    epochs: int = Field(gt=0)
    batch_size: int = Field(64, gt=0)
    learning_rate: float = Field(0.001, gt=0, description="of Adam")
    decay: Literal["none", "linear"] = Field("none", description="linear: to zero at the end")
    clip_norm: float = Field(5.0, gt=0, description="of the gradient of all weights")


def train_network(
    network: nn.Module,
    loss: Callable[[Tensor], Tensor],
    count: int,
    settings: Minibatches,
    seed: int,
    progress: Progress | None = None,
    states: States | None = None,
) -> list[float]:
    """Train ``network`` in place; the mean loss of each epoch.

    Args:
        loss: of the samples at some places (batch,), one number, averaged over them.
        count: number of samples.
        seed: of the order of the samples, a new permutation each epoch.
        states: kept after epochs; the training goes on after the newest one, to the same end.

    Raises:
        InputError: the loss is no finite number.
    """
    optimizer = EagerAdam(network.parameters(), lr=settings.learning_rate)
    device = next(network.parameters()).device
    batches = -(-count // settings.batch_size)
    steps = settings.epochs * batches
    history: list[float] = []
    if states and (state := states.read()):
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        set_global_states(state["random"], device)
        history = state["history"]
    step = len(history) * batches
    bar = (
        progress(settings.epochs, f"train {type(network).__name__}", "epoch") if progress else None
    )
    if bar:
        bar.update(len(history))
    network.train()
    # The orders of the epochs before are drawn again, which leaves the generator as they left it.
    for epoch in islice(epochs(count, settings, seed), len(history), None):
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
        if states:
            states.write(
                len(history),
                lambda: {
                    "network": network.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "random": global_states(device),
                    "history": history,
                },
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
