"""The program ``train_network``: the network on pairs of covers and non-covers.

The weights with the lowest validation loss are kept. Source: Chang et al. 2017.
"""

from __future__ import annotations

from pydantic import Field
from torch import nn

from common.errors import InputError
from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.run import Run
from common.training import Core, CoreSettings
from papers.cover_song.methods.needed_networks import WEIGHTS, starting_weights
from papers.cover_song.methods.pair_training import train_on_pairs
from papers.cover_song.network.architectures import Architecture, build_network
from papers.cover_song.network.scoring import load_network, pair_log_odds, save_network
from papers.cover_song.tasks.network_songs import (
    EpochPairs,
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


def train_network(settings: TrainNetwork, run: Run) -> dict[str, float]:
    """Train, validate after each epoch, keep the best."""
    data = load_training_songs(settings.songs, run)
    core = Core(settings.core, run)
    network = _new_network(settings, run)
    pairs = EpochPairs(data, settings.covers, settings.negatives, settings.redraw, run.seed)
    held_out, labels = validation_pairs(data, run.seed)
    found = train_on_pairs(
        core,
        network,
        pairs,
        lambda trained: pair_log_odds(trained, data.songs, held_out),
        labels,
        epochs=settings.epochs,
        lr=settings.lr,
    )
    save_network(
        network,
        run.path(WEIGHTS),
        architecture=settings.architecture,
        frames=settings.songs.seconds,
        filters=settings.filters,
    )
    return found


def _new_network(settings: TrainNetwork, run: Run) -> nn.Module:
    """With random weights, or with those of another run."""
    if not settings.warm:
        return build_network(settings.architecture, settings.songs.seconds, settings.filters)
    weights = starting_weights(run)
    network, frames = load_network(weights)
    fresh = build_network(settings.architecture, settings.songs.seconds, settings.filters)
    if frames != settings.songs.seconds:
        raise InputError(
            f"warm: the network of {weights} takes {frames} frames; needed:"
            f" {settings.songs.seconds}"
        )
    fresh.load_state_dict(network.state_dict())
    return fresh


PROGRAM = Program(TrainNetwork, train_network)
