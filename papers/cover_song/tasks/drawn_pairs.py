"""Pairs that a network for longer songs learns from: drawn anew for each epoch, in Qmax's key."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from common.data.hpcp import shs100k_hpcp
from common.errors import InputError
from common.runs.run import Run
from common.training.data_order import mixed
from papers.cover_song.audio.reading import SHORTEST_S
from papers.cover_song.network.keyed_scoring import chosen_keys
from papers.cover_song.network.matrices import cross_similarity
from papers.cover_song.network.training_pairs import cover_pairs, non_cover_pairs
from papers.cover_song.similarity.chroma_set import ChromaSet, chroma_set
from papers.cover_song.tasks.collections import draw_layout, read_leaks
from papers.cover_song.tasks.network_songs import TrainingSet, TrainingSongs


def sounding(data: TrainingSet) -> TrainingSet:
    """Without the songs that hold less music than Qmax takes (:data:`SHORTEST_S`)."""
    kept = np.flatnonzero(data.songs.lengths >= SHORTEST_S)
    place = np.full(len(data.songs), -1)
    place[kept] = np.arange(len(kept))
    parts = (place[np.intersect1d(part, kept)] for part in (data.train, data.validation))
    return TrainingSet(data.songs.of(kept), data.works[kept], *parts)


def with_every_work(data: TrainingSet, settings: TrainingSongs, run: Run) -> TrainingSet:
    """All songs of SHS100K for training, but for works that are judged, validated on or leaking.

    Validation stays what it is in the paper's layout, so that both can be compared.

    Raises: InputError for other songs than SHS100K's.
    """
    if settings.data != "shs100k":
        raise InputError(f"every_work: songs.data is {settings.data!r}; allowed: 'shs100k'")
    if settings.held_out is None:
        raise InputError("every_work: songs.held_out is missing: what may not be trained on")
    everything = shs100k_hpcp()
    leaks = read_leaks(run.needed("leaks")[0])
    judged = draw_layout(everything, settings.held_out, run.seed, leaks).evaluation
    banned = [everything.set_id[judged], leaks, data.works[data.validation]]
    places = np.flatnonzero(~np.isin(everything.set_id, np.concatenate(banned)))
    more = chroma_set(everything.profiles[places, : settings.seconds])
    held_out = data.songs.of(data.validation)
    songs = ChromaSet(
        np.concatenate([more.frames, held_out.frames]),
        np.concatenate([more.lengths, held_out.lengths]),
    )
    works = np.concatenate([everything.set_id[places], data.works[data.validation]])
    return TrainingSet(
        songs, works, np.arange(len(more)), len(more) + np.arange(len(data.validation))
    )


class DrawnPairs(Dataset[Any]):
    """As many covers as non-covers, with their matrices; half of these transposed, at random.

    A matrix and its transpose are one pair with its songs exchanged. A work is drawn by the root of
    its number of cover pairs, so that a few works with many versions do not lead.

    Args:
        data: songs that sound, and which are for training.
        count: pairs an epoch.
        keys: best transpositions among which Qmax chooses.
        seed: of all draws.
    """

    def __init__(self, data: TrainingSet, count: int, keys: int, seed: int) -> None:
        if count < 2 or count % 2:
            raise InputError(f"pairs {count}: allowed: even numbers from 2 on")
        self._songs = data.songs.of(data.train)
        self._works = data.works[data.train]
        self._covers = cover_pairs(self._works)
        if not len(self._covers):
            raise InputError("songs: no work has two versions to train on")
        self._count, self._keys, self._seed = count, keys, seed
        self._drawn_epoch = -1

    @property
    def cover_count(self) -> int:
        """Cover pairs that there are to learn from."""
        return len(self._covers)

    def set_epoch(self, epoch: int) -> None:
        """Draw the epoch's pairs, which depend on seed and epoch alone, and their keys."""
        if epoch == self._drawn_epoch:
            return
        rng = np.random.default_rng(mixed(self._seed, 6, epoch))
        half = self._count // 2
        _, of_work, sizes = np.unique(
            self._works[self._covers[:, 0]], return_inverse=True, return_counts=True
        )
        weights = sizes[of_work] ** -0.5
        replace = half > len(self._covers)
        places = rng.choice(len(self._covers), half, replace, weights / weights.sum())
        self._pairs = np.concatenate(
            [self._covers[places], non_cover_pairs(self._works, half, rng)]
        )
        self._labels = np.repeat([1, 0], half)
        self._exchanged = rng.random(self._count) < 0.5
        self._shifts = chosen_keys(self._songs, self._pairs, self._keys)
        self._drawn_epoch = epoch

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        part = slice(index, index + 1)
        matrix = cross_similarity(self._songs, self._pairs[part], self._shifts[part])[0]
        if self._exchanged[index]:
            matrix = matrix.transpose(-1, -2).contiguous()
        return matrix, int(self._labels[index])
