"""The program ``train_coarse_network``: a network for 180 s, from the weights of one for 64 s.

Against ``train_network``: coarser matrices, pairs drawn anew for each epoch, each in the key that
Qmax prefers, half of them with their songs exchanged; a learning rate that rises and falls; and if
asked, every work of SHS100K that may be trained on. The weights with the lowest validation loss are
kept.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.run import Run
from common.training import Core, CoreSettings
from papers.cover_song.methods.needed_networks import WEIGHTS, starting_weights
from papers.cover_song.methods.pair_training import train_on_pairs
from papers.cover_song.network.coarse import begin_as, coarse_network, save_coarse_network
from papers.cover_song.network.keyed_scoring import chosen_keys
from papers.cover_song.network.scoring import load_network, pair_log_odds
from papers.cover_song.tasks.drawn_pairs import DrawnPairs, sounding, with_every_work
from papers.cover_song.tasks.network_songs import (
    TrainingSongs,
    load_training_songs,
    validation_pairs,
)


class TrainCoarseNetwork(Settings):
    """Songs, matrices, network and schedule."""

    songs: TrainingSongs
    every_work: bool = Field(
        False, description="of shs100k: also the works outside of the paper's 254"
    )
    factor: int = Field(2, ge=1, description="seconds of a block whose mean is a cell")
    diagonal: int = Field(3, ge=1, description="cells of a diagonal that are averaged before")
    keys: int = Field(2, ge=1, le=12, description="best transpositions, of which Qmax chooses")
    filters: int = Field(8, gt=0, description="of the first block; 32 as published")
    warm: bool = Field(True, description="begin as the network of the needed run 'start'")
    pairs: int = Field(gt=0, description="an epoch, half of them covers; even")
    epochs: int = Field(gt=0)
    lr: float = Field(0.001, gt=0, description="of Adam, at its highest")
    rise: float = Field(0.1, gt=0, lt=1, description="share of all steps before that")
    core: CoreSettings


def train_coarse_network(settings: TrainCoarseNetwork, run: Run) -> dict[str, float]:
    """Train, validate after each epoch, keep the best."""
    data = load_training_songs(settings.songs, run)
    data = sounding(with_every_work(data, settings.songs, run) if settings.every_work else data)
    core = Core(settings.core, run)
    network = coarse_network(
        settings.songs.seconds, settings.factor, settings.diagonal, settings.filters
    )
    if settings.warm:
        other, _ = load_network(starting_weights(run))
        begin_as(network, other)
    pairs = DrawnPairs(data, settings.pairs, settings.keys, run.seed)
    held_out, labels = validation_pairs(data, run.seed)
    held_out = np.sort(held_out, axis=1)
    keys = chosen_keys(data.songs, held_out, settings.keys)
    found = train_on_pairs(
        core,
        network,
        pairs,
        lambda trained: pair_log_odds(trained, data.songs, held_out, shifts=keys),
        labels,
        epochs=settings.epochs,
        lr=settings.lr,
        rise=settings.rise,
    )
    save_coarse_network(
        network,
        run.path(WEIGHTS),
        frames=settings.songs.seconds,
        filters=settings.filters,
        keys=settings.keys,
    )
    return found | {"works": float(len(np.unique(data.works[data.train])))}


PROGRAM = Program(TrainCoarseNetwork, train_coarse_network)
