"""Cross-similarity matrices of pairs, as the network takes them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from papers.cover_song.similarity import kernel
from papers.cover_song.similarity.chroma_set import ChromaSet
from papers.cover_song.similarity.measures import pair_shifts


def cross_similarity(
    songs: ChromaSet, pairs: NDArray[np.int64], shifts: NDArray[np.int64] | None = None
) -> torch.Tensor:
    """Standardised matrices: pairs (p, 2) to (p, 1, T, T) float32.

    Entry (i, j) is of second i of the pair's song with the lower index and of second j of the other
    one, moved to its key: (i, j) and (j, i) are one matrix, as in the authors' scripts.

    Args:
        shifts: (p,), semitones of the later song (default: the optimal transposition).
    """
    ordered = np.sort(pairs, axis=1)
    if shifts is None:
        shifts = pair_shifts(songs, ordered, 1)[:, 0]
    out = np.empty((len(pairs), 1, songs.seconds, songs.seconds), np.float32)
    kernel.standardised_distances(songs.frames, ordered, np.asarray(shifts, np.int64), out[:, 0])
    return torch.from_numpy(out)
