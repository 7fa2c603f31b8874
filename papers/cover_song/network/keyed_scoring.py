"""Log-odds of pairs in the key that Qmax prefers among the best transpositions.

The best transposition by global profiles is wrong for one pair in six, and a network that looks at
a matrix in the wrong key sees no stripe. Qmax of two keys costs less than a second look of the
network, and its score is at hand afterwards for what is judged by both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from papers.cover_song.network.coarse import PairNetwork
from papers.cover_song.network.scoring import BATCH, pair_log_odds
from papers.cover_song.similarity import kernel
from papers.cover_song.similarity.chroma_set import ChromaSet
from papers.cover_song.similarity.measures import Aligner, Alignment, pair_batches


def fitted(songs: ChromaSet, frames: int) -> ChromaSet:
    """The songs' first ``frames`` seconds; shorter ones end in silence, as the paper has it."""
    if songs.seconds >= frames:
        return songs.first(frames)
    more = np.zeros((len(songs), frames - songs.seconds, songs.frames.shape[2]), np.float32)
    return ChromaSet(np.concatenate([songs.frames, more], axis=1), songs.lengths)


def chosen_keys(songs: ChromaSet, pairs: NDArray[np.int64], keys: int) -> NDArray[np.int64]:
    """Semitones that the later song of each pair moves up by: pairs (p, 2), i < j, to (p,).

    Raises: InputError if a song is too short for Qmax.
    """
    columns = Aligner(songs, ["qmax"], Alignment(shifts=keys)).columns(pairs)
    return columns[:, kernel.SHIFT].astype(np.int64)


class BothScores(NamedTuple):
    """Of all pairs, (songs, songs), the diagonal NaN: the network's log-odds, and Qmax.

    Qmax is divided by the root of the reference's length, as everywhere.
    """

    log_odds: NDArray[np.float64]
    qmax: NDArray[np.float64]


def all_keyed_log_odds(
    given: PairNetwork,
    songs: ChromaSet,
    keys: int | None = None,
    advance: Callable[[int], object] | None = None,
) -> BothScores:
    """Both scores of all pairs, each pair in the key that Qmax prefers.

    Args:
        keys: best transpositions that are tried; default: those of the network.
        advance: is told of pairs that are done.
    """
    count = len(songs)
    aligner = Aligner(songs, ["qmax"], Alignment(shifts=keys or given.keys))
    log_odds, qmax = (np.full((count, count), np.nan) for _ in range(2))
    for pairs in pair_batches(count, BATCH * 16):
        columns = aligner.columns(pairs)
        shifts = columns[:, kernel.SHIFT].astype(np.int64)
        i, j = pairs.T
        log_odds[i, j] = log_odds[j, i] = pair_log_odds(
            given.network, songs, pairs, advance, shifts=shifts
        )
        qmax[i, j], qmax[j, i] = aligner.oriented(columns, pairs, "qmax")
    return BothScores(log_odds, qmax)


def preselected_log_odds(
    given: PairNetwork,
    songs: ChromaSet,
    candidates: int,
    keys: int | None = None,
    advance: Callable[[int], object] | None = None,
) -> NDArray[np.float64]:
    """Scores of all pairs, of which the network sees the best ``candidates`` of each song by Qmax.

    A pair that is among those of one of its songs counts for both. The others follow in the order
    of Qmax: theirs, less so much that the largest of all would lie 1 below the lowest log-odds,
    and below -1.

    Args:
        keys: best transpositions that are tried; default: those of the network.
        advance: is told of pairs that are done, by Qmax and then by the network.

    Returns:
        (songs, songs), the diagonal NaN: log-odds of what was looked at, lower numbers of the rest.
    """
    count = len(songs)
    aligner = Aligner(songs, ["qmax"], Alignment(shifts=keys or given.keys))
    scores, shifts = np.full((count, count), np.nan), np.zeros((count, count), np.int8)
    for pairs in pair_batches(count):
        columns = aligner.columns(pairs)
        i, j = pairs.T
        scores[i, j], scores[j, i] = aligner.oriented(columns, pairs, "qmax")
        shifts[i, j] = columns[:, kernel.SHIFT]
        if advance:
            advance(len(pairs))
    seen = np.zeros((count, count), np.bool_)
    for row, marks in zip(scores, seen, strict=True):
        marks[np.argsort(-row, kind="stable")[: min(candidates, count - 1)]] = True
    i, j = np.nonzero(np.triu(seen | seen.T))
    log_odds = pair_log_odds(
        given.network, songs, np.stack([i, j], axis=1), advance, shifts=shifts[i, j].astype(int)
    )
    scores += log_odds.min(initial=0) - 1 - np.nanmax(scores, initial=0)
    scores[i, j] = scores[j, i] = log_odds
    return scores
