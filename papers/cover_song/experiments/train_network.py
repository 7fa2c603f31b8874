"""The program ``train_network``: the network on pairs of covers and non-covers.

The weights with the lowest validation loss are kept. Source: Chang et al. 2017.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn
from torch.nn.functional import cross_entropy

from common.errors import InputError
from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.run import Run
from common.training import Core, CoreSettings
from papers.cover_song.network.architectures import (
    Architecture,
    build_network,
    trainable_parameters,
)
from papers.cover_song.network.scoring import load_network, pair_log_odds, save_network
from papers.cover_song.tasks.network_songs import (
    EpochPairs,
    TrainingSet,
    TrainingSongs,
    load_training_songs,
    validation_pairs,
)


class TrainNetwork(Settings):
    """Songs, network and schedule."""

    songs: TrainingSongs
    architecture: Architecture = "published"
    filters: int = Field(32, gt=0, description="of the first block; 32 as published")
    warm: bool = Field(False, description="begin as the network of the needed run 'start'")
    covers: int | None = Field(None, gt=0, description="cover pairs an epoch; default: all")
    negatives: float = Field(1, gt=0, description="non-cover pairs for each cover pair")
    redraw: bool = Field(False, description="other non-cover pairs in each epoch")
    epochs: int = Field(gt=0)
    lr: float = Field(0.001, gt=0, description="of Adam")
    core: CoreSettings


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


def train_network(settings: TrainNetwork, run: Run) -> dict[str, float]:
    """Train, validate after each epoch, keep the best."""
    data = load_training_songs(settings.songs, run)
    core = Core(settings.core, run)
    network = _new_network(settings, run)
    pairs = EpochPairs(data, settings.covers, settings.negatives, settings.redraw, run.seed)
    held_out, labels = validation_pairs(data, run.seed)
    loader = core.loader(pairs)
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.lr, **core.fused)
    model, optimiser = core.prepare(network, optimiser)
    best = BestWeights()
    core.track(model=model, optimiser=optimiser, best=best)
    with run.progress(settings.epochs * len(pairs), "training", "pair") as bar:
        for epoch, batches in core.epochs(loader, settings.epochs):
            pairs.set_epoch(epoch)
            model.train()
            for matrices, targets in batches:
                with core.accumulate(model):
                    core.backward(cross_entropy(model(matrices), targets))
                core.step(model, optimiser)
                bar.update(len(targets))
            loss, accuracy = _validate(network, data, held_out, labels)
            best.offer(network, epoch, loss)
            core.log_metrics(epoch=epoch, validation_loss=loss, validation_accuracy=accuracy)
    run.write_rows("history.csv", core.history)
    network.load_state_dict(best.weights)
    save_network(
        network,
        run.path("network.safetensors"),
        architecture=settings.architecture,
        frames=settings.songs.seconds,
        filters=settings.filters,
    )
    rate = core.samples_per_s()
    core.finish()
    row = core.history[best.epoch]
    return {
        "validation_loss": best.loss,
        "validation_accuracy": row["validation_accuracy"],
        "last_validation_loss": core.history[-1]["validation_loss"],
        "best_epoch": float(best.epoch + 1),
        "cover_pairs": float(pairs.cover_count),
        "samples": float(
            settings.epochs * loader.steps_per_epoch * settings.core.global_batch_size
        ),
        "parameters": float(trainable_parameters(network)),
        "samples_per_s": rate,
    }


def _validate(
    network: nn.Module,
    data: TrainingSet,
    pairs: NDArray[np.int64],
    labels: NDArray[np.int64],
) -> tuple[float, float]:
    """Cross-entropy and accuracy over validation pairs."""
    log_odds = pair_log_odds(network, data.songs, pairs)
    signs = np.where(labels == 1, 1.0, -1.0)
    loss = np.logaddexp(0, -signs * log_odds).mean()
    return float(loss), float((signs * log_odds > 0).mean())


def _new_network(settings: TrainNetwork, run: Run) -> nn.Module:
    """With random weights, or with those of another run."""
    if not settings.warm:
        return build_network(settings.architecture, settings.songs.seconds, settings.filters)
    folders = run.needed("start")
    network, frames = load_network(folders[run.seed % len(folders)] / "network.safetensors")
    fresh = build_network(settings.architecture, settings.songs.seconds, settings.filters)
    if frames != settings.songs.seconds:
        raise InputError(
            f"warm: the network of {folders[0]} takes {frames} frames; needed:"
            f" {settings.songs.seconds}"
        )
    fresh.load_state_dict(network.state_dict())
    return fresh


PROGRAM = Program(TrainNetwork, train_network)
