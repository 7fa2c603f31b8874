"""The same work by other libraries: each call takes songs and pairs and returns what does it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from papers.cover_song.similarity.chroma_set import ChromaSet
from papers.cover_song.similarity.measures import Alignment
from papers.cover_song.similarity.transposition import optimal_transposition, transposed

#: Of Qmax, as ours takes it.
SETTINGS: Final = Alignment()


def librosa_dtw(songs: ChromaSet, pairs: NDArray[np.int64]) -> Callable[[], None]:
    """Dynamic time warping by librosa."""
    from librosa.sequence import dtw

    def run() -> None:
        for pair in pairs:
            x, y = _aligned(songs, pair)
            dtw(X=x.T, Y=y.T, metric="euclidean", backtrack=False)

    return run


def librosa_qmax(songs: ChromaSet, pairs: NDArray[np.int64]) -> Callable[[], None]:
    """Recurrence by librosa alone, whose neighbours are those of y's frames and not mutual."""
    from librosa.feature import stack_memory
    from librosa.segment import cross_similarity as near

    def run() -> None:
        for pair in pairs:
            x, y = (stack_memory(each.T, n_steps=SETTINGS.stack) for each in _aligned(songs, pair))
            nearest = near(x, y, k=max(1, int(SETTINGS.kappa * x.shape[1])), mode="connectivity")
            _recurrence(nearest.astype(float))

    return run


def acoss_qmax(songs: ChromaSet, pairs: NDArray[np.int64]) -> Callable[[], NDArray[np.float64]]:
    """Qmax the way the toolbox acoss goes, which cannot be installed on this Python.

    A pair at a time: distances of stacked frames in NumPy, mutual neighbours by partition of rows
    and columns, and a compiled recursion, for which librosa's stands here.
    """
    return lambda: np.array([_recurrence(_mutual(songs, pair)).max() for pair in pairs])


def essentia_qmax(songs: ChromaSet, pairs: NDArray[np.int64]) -> Callable[[], None]:
    """Qmax by essentia, keys included."""
    from essentia.standard import (  # type: ignore[import-not-found]
        ChromaCrossSimilarity,
        CoverSongSimilarity,
    )

    near = ChromaCrossSimilarity(
        frameStackSize=SETTINGS.stack, binarizePercentile=SETTINGS.kappa, oti=True
    )
    longest = CoverSongSimilarity()

    def run() -> None:
        for i, j in pairs:
            longest(near(songs.frames[i], songs.frames[j]))

    return run


def torch_matrices(songs: ChromaSet, pairs: NDArray[np.int64]) -> Callable[[], object]:
    """Matrices for the network by torch, all pairs in one batch."""
    import torch

    def run() -> object:
        aligned = [_aligned(songs, pair) for pair in pairs]
        x, y = (torch.from_numpy(np.stack(side)) for side in zip(*aligned, strict=True))
        distances = torch.cdist(x, y)
        mean = distances.mean((1, 2), keepdim=True)
        return (mean - distances) / distances.std((1, 2), keepdim=True)

    return run


def _aligned(songs: ChromaSet, pair: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both songs in one key, as peers without a transposition index take them."""
    x, y = songs.frames[pair[0]], songs.frames[pair[1]]
    return x, transposed(y, optimal_transposition(x, y))


def _recurrence(near: NDArray[np.float64]) -> NDArray[np.float64]:
    """librosa's, of neighbours (n, m): what stretches that end in each cell score (n, m)."""
    from librosa.sequence import rqa

    found: NDArray[np.float64] = rqa(
        near, gap_onset=SETTINGS.onset, gap_extend=SETTINGS.extension, backtrack=False
    )
    return found


def _mutual(songs: ChromaSet, pair: NDArray[np.int64]) -> NDArray[np.float64]:
    """Stacked frames that are among each other's nearest (n, m), 1 or 0."""
    x, y = (
        np.lib.stride_tricks.sliding_window_view(each, SETTINGS.stack, axis=0).reshape(
            -1, 12 * SETTINGS.stack
        )
        for each in _aligned(songs, pair)
    )
    squares = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    near = np.ones_like(squares, dtype=np.float64)
    for axis in (0, 1):
        count = max(1, int(SETTINGS.kappa * squares.shape[axis]))
        nearest = np.argpartition(squares, count - 1, axis=axis).take(range(count), axis=axis)
        mine = np.zeros_like(near)
        np.put_along_axis(mine, nearest, 1.0, axis=axis)
        near *= mine
    return near
