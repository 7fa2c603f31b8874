"""Pairs a second beside librosa, acoss and essentia, memory of all pairs, and how both grow.

Both sides get the same chroma in the same process, one thread each; a peer that is not installed is
left out (essentia is AGPL and no dependency of ours).

Floor: a cell of a distance matrix is twelve products and sums of float32; at two AVX2 instructions
of eight a cycle and 3 GHz a matrix of 180 x 180 takes 8 microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec

import numpy as np

from common.experiments.schema import Scale
from common.results.benchmarks import BenchmarkRow, compare, memory_row, one_thread
from papers.cover_song.benchmarks.collections import PAPER, collection_rows
from papers.cover_song.benchmarks.growth import growth
from papers.cover_song.benchmarks.peak_memory import peak_array_bytes
from papers.cover_song.benchmarks.peers import (
    acoss_qmax,
    essentia_qmax,
    librosa_dtw,
    librosa_qmax,
    torch_matrices,
)
from papers.cover_song.benchmarks.random_songs import random_pairs, random_songs
from papers.cover_song.network.matrices import cross_similarity
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
        ("DTW", "librosa", lambda: dtw.columns(pairs), librosa_dtw(songs, pairs)),
        ("Qmax", "librosa", lambda: qmax.columns(pairs), librosa_qmax(songs, pairs)),
        ("Qmax", "acoss-style", lambda: qmax.columns(pairs), acoss_qmax(songs, pairs)),
        (
            "Matrices for the network",
            "torch.cdist",
            lambda: cross_similarity(songs, pairs),
            torch_matrices(songs, pairs),
        ),
    ]
    if find_spec("essentia") is not None:
        sides.append(("Qmax", "essentia", lambda: qmax.columns(pairs), essentia_qmax(songs, pairs)))
    for what, peer, ours, theirs in sides:
        timed = compare(ours, theirs)
        note = f"{count / timed.ours:,.0f} pairs a second"
        yield timed.row(PAPER, f"{what}, {count} pairs of {seconds} s", peer, note)


def memory(scale: Scale) -> list[BenchmarkRow]:
    """Matrices for the network in batches, beside all at once."""
    seconds, count = SIZES[scale][0][0], {"smoke": 12, "laptop": 40, "paper": 60}[scale]
    songs = random_songs(count, seconds)
    everything = np.concatenate(list(pair_batches(count)))

    def batches() -> None:
        for start in range(0, len(everything), 64):
            cross_similarity(songs, everything[start : start + 64]).mean()

    ours = peak_array_bytes(batches)
    theirs = peak_array_bytes(lambda: cross_similarity(songs, everything).mean())
    what = f"matrices of {len(everything)} pairs of {seconds} s in batches of 64"
    return [memory_row(PAPER, what, "all at once", ours, theirs)]


BENCHMARKS = {"speed": speed, "memory": memory, "growth": growth}
