"""A fast index: magnitudes of the two-dimensional Fourier transform of chroma patches.

Moving a patch in time or to another key changes phases alone, so magnitudes need no alignment and a
song becomes one vector. Source: Bertin-Mahieux and Ellis 2012, with patches of seconds for beats.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from papers.cover_song.similarity.chroma_set import ChromaSet

#: Seconds of a patch, from one patch to the next, and the power that makes chroma sharper.
PATCH, HOP, POWER = 32, 4, 1.96
#: Songs whose patches are in memory at once.
_BATCH: Final = 512


def describe(songs: ChromaSet) -> NDArray[np.float32]:
    """One unit vector a song, the median over its patches: (songs, 204).

    The coefficient at zero, how loud a patch is, is left out.

    Raises: InputError if songs have fewer frames than a patch.
    """
    if songs.seconds < PATCH:
        raise InputError(f"songs of {songs.seconds} s: allowed: from {PATCH} s on")
    found = [
        _described(songs.frames[start : start + _BATCH], songs.lengths[start : start + _BATCH])
        for start in range(0, len(songs), _BATCH)
    ]
    return np.concatenate(found)


def _described(frames: NDArray[np.float32], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
    starts = np.arange(0, frames.shape[1] - PATCH + 1, HOP)
    patches = frames[:, starts[:, None] + np.arange(PATCH)] ** np.float32(POWER)
    magnitudes = np.abs(np.fft.rfft2(patches.swapaxes(2, 3))).reshape(len(frames), len(starts), -1)
    # Patches that reach beyond the end count only where a song has no whole one.
    whole = (starts[None] + PATCH <= lengths[:, None]) | (starts[None] == 0)
    medians = np.nanmedian(np.where(whole[..., None], magnitudes, np.nan), axis=1)
    medians[:, 0] = 0
    norms = np.linalg.norm(medians, axis=1, keepdims=True)
    return (medians / np.where(norms > 0, norms, 1)).astype(np.float32)  # type: ignore[no-any-return]


def index_scores(descriptors: NDArray[np.float32]) -> NDArray[np.float64]:
    """Minus the Euclidean distance of all pairs: (n, d) to (n, n), the diagonal NaN."""
    wide = descriptors.astype(np.float64)
    scores = -np.sqrt(np.maximum(2 - 2 * (wide @ wide.T), 0))
    np.fill_diagonal(scores, np.nan)
    return scores  # type: ignore[no-any-return]
