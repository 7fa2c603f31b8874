"""Where two songs match: the path behind a score of Qmax, on both time axes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from papers.cover_song.similarity import kernel
from papers.cover_song.similarity.chroma_set import ChromaSet
from papers.cover_song.similarity.measures import Alignment, pair_shifts


class Match(NamedTuple):
    """The best aligned passage of two songs.

    Attributes:
        path (k, 2): seconds of the first and of the second song that go together, in order.
        score: of Qmax, before it is divided by a length.
        shift: semitones that the second song is moved up by.
    """

    path: NDArray[np.int64]
    score: float
    shift: int


def distance_matrix(songs: ChromaSet, first: int, second: int, shift: int) -> NDArray[np.float64]:
    """Euclidean distances of the seconds of two songs, the second moved by ``shift``: (n, m)."""
    n, m = songs.lengths[first], songs.lengths[second]
    out = np.empty((n, m), np.float32)
    kernel.squared_distances(songs.frames[first, :n], songs.frames[second, :m], shift, out)
    return np.sqrt(out.astype(np.float64))


def best_match(
    songs: ChromaSet, first: int, second: int, alignment: Alignment | None = None
) -> Match:
    """Trace the best path of Qmax back from where it ends."""
    how = alignment or Alignment()
    candidates = pair_shifts(songs, np.array([[first, second]]), how.shifts)[0]
    found = [_traced(songs, first, second, int(shift), how) for shift in candidates]
    return max(found, key=lambda match: match.score)


def match_in_key(
    songs: ChromaSet, first: int, second: int, shift: int, alignment: Alignment | None = None
) -> Match:
    """As :func:`best_match`, with the second song moved up by ``shift`` semitones."""
    return _traced(songs, first, second, shift, alignment or Alignment())


def _traced(songs: ChromaSet, first: int, second: int, shift: int, how: Alignment) -> Match:
    n, m = int(songs.lengths[first]), int(songs.lengths[second])
    squares = np.empty((n, m), np.float32)
    kernel.squared_distances(songs.frames[first, :n], songs.frames[second, :m], shift, squares)
    near = np.zeros((n + kernel.MARGIN, m + kernel.MARGIN), np.float32)
    scores = np.zeros_like(near)
    kernel.mutual_neighbours(squares, n, m, how.stack, how.kappa, near)
    rows, columns = n - how.stack + 1, m - how.stack + 1
    largest = kernel.longest_alignment(near, rows, columns, how.onset, how.extension, False, scores)
    i, j = np.unravel_index(int(scores.argmax()), scores.shape)
    path = []
    while i >= kernel.MARGIN and j >= kernel.MARGIN and scores[i, j] > 0:
        path.append((i - kernel.MARGIN, j - kernel.MARGIN))
        steps = [(i - 1, j - 1), (i - 2, j - 1), (i - 1, j - 2)]
        if near[i, j] > 0:
            i, j = max(steps, key=lambda place: scores[place])
        else:
            gap = {place: how.onset if near[place] > 0 else how.extension for place in steps}
            i, j = max(steps, key=lambda place: scores[place] - gap[place])
    return Match(np.array(path[::-1], dtype=np.int64).reshape(-1, 2), float(largest), shift)
