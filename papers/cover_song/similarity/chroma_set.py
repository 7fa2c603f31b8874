"""Chroma of many songs in one array, as all that compares songs takes it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from common.errors import InputError
from papers.cover_song.similarity.transposition import PITCH_CLASSES, global_profile

#: Frames below this share of a song's median norm are silence: scaled up they would be noise.
SILENCE: Final = 0.01


@dataclass(frozen=True, eq=False)
class ChromaSet:
    """Songs as unit vectors of 12 pitch classes, one a second.

    Attributes:
        frames (songs, T, 12): float32, each of length 1, or 0 for silence and after the end.
        lengths (songs,): int64, frames up to the last that sounds.
    """

    frames: NDArray[np.float32]
    lengths: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def seconds(self) -> int:
        """T, the frames of the longest song that fits."""
        return int(self.frames.shape[1])

    @cached_property
    def profiles(self) -> NDArray[np.float64]:
        """Global profile of each song: (songs, 12)."""
        return global_profile(self.frames)

    def of(self, songs: ArrayLike) -> ChromaSet:
        """The named songs (indices), in that order."""
        chosen = np.asarray(songs)
        return ChromaSet(self.frames[chosen], self.lengths[chosen])

    def first(self, seconds: int) -> ChromaSet:
        """The same songs, their first ``seconds`` frames alone."""
        return chroma_set(self.frames[:, :seconds])


def unit_frames(chroma: ArrayLike) -> NDArray[np.float32]:
    """Each frame divided by its Euclidean length: (..., T, 12) to the same, float32.

    Frames under a hundredth of the song's median length become zero.

    Raises: InputError for values below zero or not finite, or another number of pitch classes.
    """
    raw = np.asarray(chroma, dtype=np.float32)
    if raw.ndim < 2 or raw.shape[-1] != PITCH_CLASSES:
        raise InputError(f"chroma {raw.shape}: allowed: (..., frames, {PITCH_CLASSES})")
    if not np.isfinite(raw).all() or (raw < 0).any():
        raise InputError("chroma: holds values below zero or not finite; allowed: 0 and above")
    norms = np.linalg.norm(raw, axis=-1, keepdims=True)
    sounding = np.where(norms > 0, norms, np.nan)
    silent = ~(norms > 0).any(axis=-2, keepdims=True)
    median = np.nanmedian(np.where(silent, 1.0, sounding), axis=-2, keepdims=True)
    kept = norms >= SILENCE * median
    return np.where(kept & (norms > 0), raw / np.where(norms > 0, norms, 1), 0).astype(np.float32)


def chroma_set(chroma: ArrayLike) -> ChromaSet:
    """Songs out of raw chroma (songs, T, 12), of any scale (uint8 too), zero after a song's end.

    Raises: InputError for what is no chroma.
    """
    raw = np.asarray(chroma)
    if raw.ndim != 3 or not raw.shape[1]:
        raise InputError(f"chroma {raw.shape}: allowed: (songs, frames, {PITCH_CLASSES})")
    frames = unit_frames(raw)
    sounds = np.any(frames > 0, axis=2)
    lengths = raw.shape[1] - np.argmax(sounds[:, ::-1], axis=1)
    return ChromaSet(frames, np.where(sounds.any(axis=1), lengths, 0).astype(np.int64))


def padded(songs: list[NDArray[np.float32]], seconds: int) -> ChromaSet:
    """Songs of different lengths, (frames, 12) each, cut or filled with silence to ``seconds``."""
    filled = np.zeros((len(songs), seconds, PITCH_CLASSES), np.float32)
    for row, song in zip(filled, songs, strict=True):
        row[: min(seconds, len(song))] = song[:seconds]
    return chroma_set(filled)
