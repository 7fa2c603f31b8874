"""Songs that the tests share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from papers.cover_song.similarity.chroma_set import ChromaSet, chroma_set


def random_songs(count: int, seconds: int, seed: int = 0) -> ChromaSet:
    """Songs without any pattern, of full length."""
    return chroma_set(np.random.default_rng(seed).random((count, seconds, 12)))


def tone_song(rate: int, seconds: float, cents: float = 0.0, seed: int = 0) -> NDArray[np.float32]:
    """Sound of changing chords, a second each, tuned ``cents`` off."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(rate * seconds)) / rate
    sound = np.zeros_like(time)
    for second in range(int(np.ceil(seconds))):
        here = (time >= second) & (time < second + 1)
        for pitch in rng.integers(48, 84, 3):
            frequency = 440 * 2 ** ((int(pitch) - 69) / 12 + cents / 1200)
            sound[here] += sum(
                0.6**h * np.sin(2 * np.pi * frequency * (h + 1) * time[here]) for h in range(4)
            )
    return (0.1 * sound).astype(np.float32)
