"""The program ``train_coarse_network``: a network for 180 s, from the weights of one for 64 s.

Against ``train_network``: coarser matrices, pairs drawn anew for each epoch, each in the key that
Qmax prefers, half of them with their songs exchanged; a learning rate that rises and falls; and if
asked, every work of SHS100K that may be trained on. The weights with the lowest validation loss are
kept.
"""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from torch.nn.functional import cross_entropy

from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.run import Run
from common.training import Core, CoreSettings
from papers.cover_song.experiments.train_network import BestWeights
from papers.cover_song.network.architectures import trainable_parameters
from papers.cover_song.network.coarse import begin_as, coarse_network, save_coarse_network
from papers.cover_song.network.keyed_scoring import chosen_keys, keyed_log_odds
from papers.cover_song.network.scoring import load_network
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
        folders = run.needed("start")
        other, _ = load_network(folders[run.seed % len(folders)] / "network.safetensors")
        begin_as(network, other)
    pairs = DrawnPairs(data, settings.pairs, settings.keys, run.seed)
    held_out, labels = validation_pairs(data, run.seed)
    held_out = np.sort(held_out, axis=1)
    signs = np.where(labels == 1, 1.0, -1.0)
    keys = chosen_keys(data.songs, held_out, settings.keys)
    loader = core.loader(pairs)
    steps = settings.epochs * loader.steps_per_epoch
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.lr, **core.fused)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, settings.lr, total_steps=steps, pct_start=settings.rise
    )
    model, optimiser = core.prepare(network, optimiser)
    best = BestWeights()
    core.track(model=model, optimiser=optimiser, schedule=schedule, best=best)
    with run.progress(settings.epochs * len(pairs), "training", "pair") as bar:
        for epoch, batches in core.epochs(loader, settings.epochs):
            pairs.set_epoch(epoch)
            model.train()
            for matrices, targets in batches:
                with core.accumulate(model):
                    core.backward(cross_entropy(model(matrices), targets))
                core.step(model, optimiser, schedule)
                bar.update(len(targets))
            log_odds = signs * keyed_log_odds(network, data.songs, held_out, keys)
            loss = float(np.logaddexp(0, -log_odds).mean())
            accuracy = float((log_odds > 0).mean())
            best.offer(network, epoch, loss)
            core.log_metrics(epoch=epoch, validation_loss=loss, validation_accuracy=accuracy)
    run.write_rows("history.csv", core.history)
    network.load_state_dict(best.weights)
    save_coarse_network(
        network,
        run.path("network.safetensors"),
        frames=settings.songs.seconds,
        filters=settings.filters,
        keys=settings.keys,
    )
    rate = core.samples_per_s()
    core.finish()
    row = core.history[best.epoch]
    return {
        "validation_loss": best.loss,
        "validation_accuracy": row["validation_accuracy"],
        "last_validation_loss": core.history[-1]["validation_loss"],
        "best_epoch": float(best.epoch + 1),
        "works": float(len(np.unique(data.works[data.train]))),
        "cover_pairs": float(pairs.cover_count),
        "samples": float(steps * settings.core.global_batch_size),
        "parameters": float(trainable_parameters(network)),
        "samples_per_s": rate,
    }


PROGRAM = Program(TrainCoarseNetwork, train_coarse_network)
