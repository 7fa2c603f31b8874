"""Songs without any pattern, and the pairs of them that benchmarks time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from papers.cover_song.similarity.chroma_set import ChromaSet, chroma_set


def random_songs(count: int, seconds: int) -> ChromaSet:
    """``count`` songs, the same at each call."""
    return chroma_set(np.random.default_rng(0).random((count, seconds, 12)) ** 3)


def random_pairs(count: int, seconds: int) -> tuple[ChromaSet, NDArray[np.int64]]:
    """Songs, and ``count`` pairs of them (count, 2) that share none."""
    pairs = np.arange(2 * count, dtype=np.int64).reshape(count, 2)
    return random_songs(2 * count, seconds), pairs
