"""How both forms of the network are trained on pairs: validated each epoch, the best epoch kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from common.training import Core
from papers.cover_song.network.architectures import trainable_parameters


class PairsOfEpochs(Protocol):
    """A data set of (matrix (1, T, T), 1 for covers or 0), whose pairs depend on the epoch."""

    @property
    def cover_count(self) -> int:
        """Cover pairs that there are to learn from."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's pairs."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]: ...


class BestWeights:
    """The network of the epoch with the lowest validation loss; part of the resume state."""

    def __init__(self) -> None:
        self.loss, self.epoch = float("inf"), -1
        self.weights: dict[str, torch.Tensor] = {}

    def offer(self, network: nn.Module, epoch: int, loss: float) -> None:
        """Keep the network's weights if its loss is the lowest so far."""
        if loss < self.loss:
            self.loss, self.epoch = loss, epoch
            self.weights = {
                name: value.detach().clone() for name, value in network.state_dict().items()
            }

    def state_dict(self) -> dict[str, Any]:
        """Loss, epoch and weights."""
        return {"loss": self.loss, "epoch": self.epoch, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.loss, self.epoch, self.weights = state["loss"], state["epoch"], state["weights"]


def train_on_pairs(
    core: Core,
    network: nn.Module,
    pairs: PairsOfEpochs,
    log_odds: Callable[[nn.Module], NDArray[np.float64]],
    labels: NDArray[np.int64],
    *,
    epochs: int,
    lr: float,
    rise: float | None = None,
) -> dict[str, float]:
    """Train by Adam on cross-entropy; the network has its best weights afterwards.

    Writes ``history.csv``, a row an epoch, and lets go of ``core``.

    Args:
        network: what is trained, in place: (n, 1, T, T) to logits (n, 2).
        pairs: what it learns from.
        log_odds: of the validation pairs (p,), by the network as it is.
        labels: (p,), 1 for covers and 0 for others, of the validation pairs.
        lr: learning rate; with ``rise`` the highest.
        rise: share of all steps in which the rate rises, before it falls; it stays unless given.

    Returns:
        Mean cross-entropy and accuracy over the validation pairs, of the epoch kept and the last;
        that epoch, from 1 on; numbers of pairs and parameters; samples a second.
    """
    loader = core.loader(pairs)
    steps = epochs * loader.steps_per_epoch
    optimiser = torch.optim.Adam(network.parameters(), lr=lr, **core.fused)
    best = BestWeights()
    schedule = None
    if rise is not None:
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, lr, total_steps=steps, pct_start=rise
        )
        core.track(schedule=schedule)
    model, optimiser = core.prepare(network, optimiser)
    core.track(model=model, optimiser=optimiser, best=best)
    signs = np.where(labels == 1, 1.0, -1.0)
    with core.run.progress(epochs * len(pairs), "training", "pair") as bar:
        for epoch, batches in core.epochs(loader, epochs):
            pairs.set_epoch(epoch)
            model.train()
            for matrices, targets in batches:
                with core.accumulate(model):
                    core.backward(cross_entropy(model(matrices), targets))
                core.step(model, optimiser, schedule)
                bar.update(len(targets))
            right_by = signs * log_odds(network)
            loss = float(np.logaddexp(0, -right_by).mean())
            best.offer(network, epoch, loss)
            core.log_metrics(
                epoch=epoch, validation_loss=loss, validation_accuracy=float((right_by > 0).mean())
            )
    core.run.write_rows("history.csv", core.history)
    network.load_state_dict(best.weights)
    rate = core.samples_per_s()
    core.finish()
    return {
        "validation_loss": best.loss,
        "validation_accuracy": core.history[best.epoch]["validation_accuracy"],
        "last_validation_loss": core.history[-1]["validation_loss"],
        "best_epoch": float(best.epoch + 1),
        "cover_pairs": float(pairs.cover_count),
        "samples": float(steps * core.settings.global_batch_size),
        "parameters": float(trainable_parameters(network)),
        "samples_per_s": rate,
    }
