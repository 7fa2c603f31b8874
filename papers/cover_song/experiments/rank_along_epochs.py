"""The program ``rank_along_epochs``: what rankings are worth as the network trains on.

Source: claim A5, that correlation is best by the epoch of the lowest validation loss and loses by
one that has trained too long.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.run import Run
from common.training import Core, CoreSettings
from papers.cover_song.methods.pair_training import train_on_pairs
from papers.cover_song.methods.scores import comparable, ranking_metrics
from papers.cover_song.network.architectures import build_network
from papers.cover_song.network.scoring import all_log_odds, pair_log_odds
from papers.cover_song.ranking.rankings import BY_ROWS, ranked_log_odds
from papers.cover_song.tasks.collections import CollectionSettings, load_collection
from papers.cover_song.tasks.network_songs import (
    EpochPairs,
    TrainingSongs,
    load_training_songs,
    validation_pairs,
)


class RankAlongEpochs(Settings):
    """Songs to learn from and to be judged on, and the training, as of ``train_network``."""

    songs: TrainingSongs
    collection: CollectionSettings
    filters: int = Field(32, gt=0, description="of the first block; 32 as published")
    covers: int | None = Field(None, gt=0, description="cover pairs an epoch; default: all")
    epochs: int = Field(gt=0)
    lr: float = Field(0.001, gt=0, description="of Adam")
    core: CoreSettings


class FollowedEpochs:
    """Metrics after each epoch; part of the resume state."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, Any]:
        """The rows."""
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.rows = list(state["rows"])


def rank_along_epochs(settings: RankAlongEpochs, run: Run) -> dict[str, float]:
    """Metrics of rankings by the epoch of the lowest validation loss, and by the last one."""
    data = load_training_songs(settings.songs, run)
    collection = comparable(load_collection(settings.collection, run))
    core = Core(settings.core, run)
    network = build_network("published", settings.songs.seconds, settings.filters)
    held_out, labels = validation_pairs(data, run.seed)
    followed = FollowedEpochs()
    core.track(followed=followed)

    def log_odds(trained: nn.Module) -> NDArray[np.float64]:
        scores = all_log_odds(trained, collection.songs)
        followed.rows.append(
            ranking_metrics(scores, collection, rankings=("raw", *BY_ROWS), rank=ranked_log_odds)
        )
        return pair_log_odds(trained, data.songs, held_out)

    found = train_on_pairs(
        core,
        network,
        EpochPairs(data, settings.covers, 1, False, run.seed),
        log_odds,
        labels,
        epochs=settings.epochs,
        lr=settings.lr,
    )
    del found["samples_per_s"]  # of training and judging together
    rows = followed.rows
    run.write_rows("rankings.csv", [{"epoch": n, **row} for n, row in enumerate(rows, 1)])
    for moment, row in (("kept", rows[int(found["best_epoch"]) - 1]), ("last", rows[-1])):
        found |= {f"{name}_{moment}": value for name, value in row.items()}
        for ranking in BY_ROWS:
            found[f"gain_{ranking}_{moment}"] = row[f"map_{ranking}"] - row["map_raw"]
    return found


PROGRAM = Program(RankAlongEpochs, rank_along_epochs)
