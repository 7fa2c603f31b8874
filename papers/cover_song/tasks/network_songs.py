"""What the network learns from: songs, pairs of an epoch, pairs for validation."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch.utils.data import Dataset

from common.data.hpcp import shs100k_hpcp
from common.data.registry import identity
from common.experiments.settings import Settings
from common.runs.run import Run
from common.training.data_order import mixed
from papers.cover_song.network.matrices import cross_similarity
from papers.cover_song.network.training_pairs import cover_pairs, non_cover_pairs, split_works
from papers.cover_song.similarity.chroma_set import ChromaSet, chroma_set
from papers.cover_song.tasks.collections import (
    CollectionSettings,
    draw_layout,
    made_up_collection,
    read_leaks,
)


class TrainingSongs(Settings):
    """Songs for training and validation; of SHS100K in the paper's layout."""

    data: Literal["synthetic", "shs100k"]
    seconds: int = Field(ge=32, le=180)
    works: int = Field(gt=0, description="of shs100k: as many of the paper's 254, at random")
    versions: int = Field(0, ge=0, description="of synthetic works")
    strength: float = Field(1.5, ge=0)
    shared: float = Field(0.9, ge=0, le=1)
    held_out: CollectionSettings | None = Field(
        None, description="of shs100k: what is judged on, whose works are not trained on"
    )
    validation: float = Field(
        gt=0, lt=0.5, description="share of cover pairs, in whole works; the paper: 322 of 2,435"
    )


class TrainingSet(NamedTuple):
    """Songs of both parts and the pairs of each."""

    songs: ChromaSet
    works: NDArray[np.int64]
    train: NDArray[np.int64]
    validation: NDArray[np.int64]


def load_training_songs(settings: TrainingSongs, run: Run) -> TrainingSet:
    """Songs, and which of them are for training and for validation."""
    rng = np.random.default_rng(mixed(run.seed, 1))
    if settings.data == "synthetic":
        drawn = CollectionSettings(
            data="synthetic",
            seconds=settings.seconds,
            works=settings.works,
            versions=settings.versions,
            strength=settings.strength,
            shared=settings.shared,
        )
        songs, works, _ = made_up_collection(drawn, run, 1)
    else:
        run.uses(identity("shs100k_hpcp"))
        everything = shs100k_hpcp()
        leaks = read_leaks(run.needed("leaks")[0])
        held_out = settings.held_out or CollectionSettings(data="shs100k", seconds=64)
        places = draw_layout(everything, held_out, run.seed, leaks).training
        works = everything.set_id[places]
        chosen = rng.permutation(np.unique(works))[: settings.works]
        kept = np.isin(works, chosen)
        songs = chroma_set(everything.profiles[places[kept], : settings.seconds])
        works = works[kept]
    train, validation = split_works(works, settings.validation, rng)
    return TrainingSet(songs, works, train, validation)


class EpochPairs(Dataset[Any]):
    """Pairs of an epoch with their matrices: covers, and non-covers that may be drawn anew.

    Args:
        data: songs and which are for training.
        covers: cover pairs an epoch; all of them, in turn, if there are fewer or more.
        negatives: non-cover pairs for each cover pair.
        redraw: whether each epoch has other non-covers.
        seed: of all draws.
    """

    def __init__(
        self, data: TrainingSet, covers: int | None, negatives: float, redraw: bool, seed: int
    ) -> None:
        self._songs, self._redraw, self._seed = data.songs, redraw, seed
        self._works, self._members = data.works[data.train], data.train
        self._covers = data.train[cover_pairs(self._works)]
        self._count = len(self._covers) if covers is None else covers
        self._negatives = round(self._count * negatives)
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's pairs, which depend on seed and epoch alone."""
        first = epoch * self._count
        turns = np.arange(first, first + self._count)
        rounds, places = np.divmod(turns, len(self._covers))
        covers = np.empty((self._count, 2), np.int64)
        for turn in np.unique(rounds):
            order = np.random.default_rng(mixed(self._seed, 3, int(turn))).permutation(
                len(self._covers)
            )
            here = rounds == turn
            covers[here] = self._covers[order[places[here]]]
        drawn = np.random.default_rng(mixed(self._seed, 4, epoch if self._redraw else 0))
        others = self._members[non_cover_pairs(self._works, self._negatives, drawn)]
        self._pairs = np.concatenate([covers, others])
        self._labels = np.repeat([1, 0], [len(covers), len(others)])

    @property
    def cover_count(self) -> int:
        """Cover pairs that there are to learn from."""
        return len(self._covers)

    def __len__(self) -> int:
        return self._count + self._negatives

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        matrix = cross_similarity(self._songs, self._pairs[index : index + 1])[0]
        return matrix, int(self._labels[index])


def validation_pairs(data: TrainingSet, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All cover pairs of the songs held out and as many non-covers: (p, 2), and 1 or 0 (p,)."""
    works = data.works[data.validation]
    covers = data.validation[cover_pairs(works)]
    rng = np.random.default_rng(mixed(seed, 5))
    others = data.validation[non_cover_pairs(works, len(covers), rng)]
    labels = np.repeat([1, 0], [len(covers), len(others)])
    return np.concatenate([covers, others]), labels
