"""What whole collections take: features of audio, an index, a network after a cheaper measure.

Floor of the index: a query reads 100,000 vectors of 64 float32 once, 26 MB, which takes about 3 ms
at 10 GB a second.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from common.experiments.schema import Scale
from common.results.benchmarks import BenchmarkRow, compare
from papers.cover_song.audio.features import song_chroma
from papers.cover_song.benchmarks.random_songs import random_pairs
from papers.cover_song.network.architectures import published_network
from papers.cover_song.network.coarse import coarse_network
from papers.cover_song.network.keyed_scoring import chosen_keys
from papers.cover_song.network.scoring import pair_log_odds
from papers.cover_song.similarity.cover_index import CoverIndex

PAPER: Final = "cover_song"
#: Seconds of audio, songs of an index, pairs of 180 s of which the network sees a tenth.
AUDIO_S: Final[dict[Scale, int]] = {"smoke": 5, "laptop": 60, "paper": 180}
INDEXED: Final[dict[Scale, tuple[int, ...]]] = {
    "smoke": (1_000,),
    "laptop": (20_000,),
    "paper": (10_000, 100_000),
}
PAIRS: Final[dict[Scale, int]] = {"smoke": 10, "laptop": 20, "paper": 40}
RATE: Final = 22_050
#: Of the goal: songs, and candidates of each that the network sees.
SONGS, CANDIDATES = 1_000, 50


def collection_rows(scale: Scale) -> Iterator[BenchmarkRow]:
    """Rows of the report."""
    yield from _features(AUDIO_S[scale])
    for count in INDEXED[scale]:
        yield _index(count)
    yield _coarse(min(4, PAIRS[scale]))
    yield _preselected(PAIRS[scale])


def _features(seconds: int) -> Iterator[BenchmarkRow]:
    """Chroma of sound, a frame a second: by NumPy, and by torch on a GPU if there is one."""
    import torch
    from librosa.feature import chroma_stft

    from papers.cover_song.audio.device_features import device_chroma

    rng = np.random.default_rng(0)
    time = np.arange(seconds * RATE) / RATE
    tones = 110 * 2 ** (rng.integers(0, 36, 8) / 12)
    sound = np.sin(2 * np.pi * tones[:, None] * time).sum(axis=0) + rng.standard_normal(len(time))
    samples = sound.astype(np.float32)
    timed = compare(
        lambda: song_chroma(samples, RATE),
        lambda: chroma_stft(y=samples, sr=RATE, n_fft=RATE, hop_length=RATE, center=False),
    )
    note = f"{seconds / timed.ours:,.0f} s of audio a second"
    what = f"chroma of {seconds} s of sound, with tuning"
    yield timed.row(PAPER, what, "librosa", note)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    again = compare(
        lambda: device_chroma(samples, RATE, device), lambda: song_chroma(samples, RATE)
    )
    note = f"{seconds / again.ours:,.0f} s of audio a second on {device.type}"
    yield again.row(PAPER, f"{what}, by torchaudio", "ours by NumPy", note)


def _index(count: int) -> BenchmarkRow:
    """Candidates of one query, beside scikit-learn's neighbours by brute force."""
    from sklearn.neighbors import NearestNeighbors

    vectors = np.random.default_rng(0).standard_normal((count, 64), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    index, query = CoverIndex(vectors), vectors[:1]
    peer = NearestNeighbors(n_neighbors=CANDIDATES, algorithm="brute", metric="cosine").fit(vectors)
    timed = compare(lambda: index.nearest(query, CANDIDATES), lambda: peer.kneighbors(query))
    what = f"{CANDIDATES} candidates among {count:,} songs"
    return timed.row(PAPER, what, "scikit-learn, brute force")


def _coarse(count: int) -> BenchmarkRow:
    """Log-odds of pairs of 180 s, with their keys, beside the published network."""
    songs, pairs = random_pairs(count, 180)
    ours, published = coarse_network(180, 2, 3).eval(), published_network(180).eval()
    timed = compare(
        lambda: pair_log_odds(ours, songs, pairs, shifts=chosen_keys(songs, pairs, 2)),
        lambda: pair_log_odds(published, songs, pairs),
    )
    note = f"{count / timed.ours:,.0f} pairs a second"
    what = f"network on coarse matrices, {count} pairs of 180 s"
    return timed.row(PAPER, what, "network as published", note)


def _preselected(count: int) -> BenchmarkRow:
    """All pairs of 1,000 songs, measured on a sample: the network sees Qmax's best fifty alone."""
    songs, pairs = random_pairs(count, 180)
    network = coarse_network(180, 2, 3).eval()
    total = SONGS * (SONGS - 1) // 2
    # A pair that is a candidate of both its songs is seen once: at most so many are seen.
    seen = -(-count * SONGS * CANDIDATES // total)

    def ours() -> None:
        keys = chosen_keys(songs, pairs, 2)
        pair_log_odds(network, songs, pairs[:seen], shifts=keys[:seen])

    def theirs() -> None:
        pair_log_odds(network, songs, pairs, shifts=chosen_keys(songs, pairs, 2))

    timed = compare(ours, theirs, repeats=3)
    note = f"projected: {timed.ours * total / count:,.0f} s for all pairs of {SONGS:,} songs"
    what = f"{count} pairs of 180 s, of which the network sees {seen} after Qmax"
    return timed.row(PAPER, what, "the network sees all", f"{note}, one thread")
