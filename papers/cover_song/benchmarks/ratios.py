"""Pairs a second beside librosa and essentia, and memory of all pairs.

Both sides get the same chroma in the same process, one thread each; a peer that is not installed is
left out (essentia is AGPL and no dependency of ours).

Floor: a cell of a distance matrix is twelve products and sums of float32; at two AVX2 instructions
of eight a cycle and 3 GHz a matrix of 180 x 180 takes 8 microseconds.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.experiments.schema import Scale
from common.results.benchmarks import BenchmarkRow, compare, memory_row, one_thread
from papers.cover_song.benchmarks.collections import PAPER, collection_rows
from papers.cover_song.benchmarks.random_songs import random_pairs, random_songs
from papers.cover_song.network.matrices import cross_similarity
from papers.cover_song.similarity.chroma_set import ChromaSet
from papers.cover_song.similarity.measures import Aligner, pair_batches

#: Seconds of a song and pairs that are timed together.
SIZES: dict[Scale, tuple[tuple[int, int], ...]] = {
    "smoke": ((40, 1),),
    "laptop": ((64, 8), (180, 4)),
    "paper": ((64, 8), (180, 4), (400, 2)),
}


def speed(scale: Scale) -> list[BenchmarkRow]:
    """Time of pairs, ours over the peer's."""
    with one_thread():
        rows = [row for size in SIZES[scale] for row in _of_size(*size)]
        return [*rows, *collection_rows(scale)]


def _of_size(seconds: int, count: int) -> Iterator[BenchmarkRow]:
    songs, pairs = random_pairs(count, seconds)
    dtw, qmax = Aligner(songs, ["dtw"]), Aligner(songs, ["qmax"])
    sides: list[tuple[str, str, Callable[[], object], Callable[[], object]]] = [
        ("DTW", "librosa", lambda: dtw.columns(pairs), _librosa_dtw(songs, pairs)),
        ("Qmax", "librosa", lambda: qmax.columns(pairs), _librosa_qmax(songs, pairs)),
        (
            "Matrices for the network",
            "torch.cdist",
            lambda: cross_similarity(songs, pairs),
            _torch_matrices(songs, pairs),
        ),
    ]
    if find_spec("essentia") is not None:
        sides.append(("Qmax", "essentia", lambda: qmax.columns(pairs), _essentia(songs, pairs)))
    for what, peer, ours, theirs in sides:
        timed = compare(ours, theirs)
        note = f"{count / timed.ours:,.0f} pairs a second"
        yield timed.row(PAPER, f"{what}, {count} pairs of {seconds} s", peer, note)


def _aligned(songs: ChromaSet, pair: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Both songs in one key, as peers without a transposition index take them."""
    from papers.cover_song.similarity.transposition import optimal_transposition, transposed

    x, y = songs.frames[pair[0]], songs.frames[pair[1]]
    return x, transposed(y, optimal_transposition(x, y))


def _librosa_dtw(songs: ChromaSet, pairs: NDArray[np.int64]) -> Callable[[], None]:
    from librosa.sequence import dtw

    def run() -> None:
        for pair in pairs:
            x, y = _aligned(songs, pair)
            dtw(X=x.T, Y=y.T, metric="euclidean", backtrack=False)

    return run


def _librosa_qmax(songs: ChromaSet, pairs: NDArray[np.int64]) -> Callable[[], None]:
    from librosa.feature import stack_memory
    from librosa.segment import cross_similarity as near
    from librosa.sequence import rqa

    def run() -> None:
        for pair in pairs:
            x, y = (stack_memory(each.T, n_steps=4) for each in _aligned(songs, pair))
            # Neighbours of each of y's frames alone: mutual ones are not to be had there.
            nearest = near(x, y, k=max(1, int(0.095 * x.shape[1])), mode="connectivity")
            rqa(nearest.astype(float), gap_onset=0.5, gap_extend=0.5, backtrack=False)

    return run


def _essentia(songs: ChromaSet, pairs: NDArray[np.int64]) -> Callable[[], None]:
    from essentia.standard import (  # type: ignore[import-not-found]
        ChromaCrossSimilarity,
        CoverSongSimilarity,
    )

    near = ChromaCrossSimilarity(frameStackSize=4, binarizePercentile=0.095, oti=True)
    longest = CoverSongSimilarity()

    def run() -> None:
        for i, j in pairs:
            longest(near(songs.frames[i], songs.frames[j]))

    return run


def _torch_matrices(songs: ChromaSet, pairs: NDArray[np.int64]) -> Callable[[], object]:
    import torch

    def run() -> object:
        aligned = [_aligned(songs, pair) for pair in pairs]
        x, y = (torch.from_numpy(np.stack(side)) for side in zip(*aligned, strict=True))
        distances = torch.cdist(x, y)
        mean = distances.mean((1, 2), keepdim=True)
        return (mean - distances) / distances.std((1, 2), keepdim=True)

    return run


def memory(scale: Scale) -> list[BenchmarkRow]:
    """Matrices for the network in batches, beside all at once."""
    seconds, count = SIZES[scale][0][0], {"smoke": 12, "laptop": 40, "paper": 60}[scale]
    songs = random_songs(count, seconds)
    everything = np.concatenate(list(pair_batches(count)))

    def batches() -> None:
        for start in range(0, len(everything), 64):
            cross_similarity(songs, everything[start : start + 64]).mean()

    ours = _peak_bytes(batches)
    theirs = _peak_bytes(lambda: cross_similarity(songs, everything).mean())
    what = f"matrices of {len(everything)} pairs of {seconds} s in batches of 64"
    return [memory_row(PAPER, what, "all at once", ours, theirs)]


def _peak_bytes(work: Callable[[], object]) -> int:
    """Most bytes of arrays at once; NumPy tells the interpreter of each."""
    work()  # what is compiled or loaded once does not count
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


BENCHMARKS = {"speed": speed, "memory": memory}
