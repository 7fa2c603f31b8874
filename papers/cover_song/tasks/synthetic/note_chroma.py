"""Chroma straight from notes: energy of their harmonics in bins of a second."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from papers.cover_song.tasks.synthetic.performances import HARMONICS, Performance

#: Pitch classes that harmonics 1 to 8 fall on, above the fundamental.
_FOLDED: Final = np.round(12 * np.log2(np.arange(1, HARMONICS + 1))).astype(int) % 12


def note_chroma(
    performance: Performance, seconds: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """(seconds, 12), each row of length 1, or zero after the end.

    The square root of the energy, plus noise that is gamma distributed.
    """
    start, duration, pitch, gain = performance.notes.T
    bins = np.arange(seconds)[:, None]
    rate = 2 / performance.timbre.decay_s
    first = np.clip(bins - start, 0, duration)
    last = np.clip(bins + 1 - start, 0, duration)
    energy = gain**2 * (np.exp(-rate * first) - np.exp(-rate * last)) / rate
    one_hot = np.eye(12)[pitch.astype(int) % 12]
    template = np.zeros(12)
    np.add.at(template, _FOLDED, performance.timbre.amplitudes**2)
    turned = template[(np.arange(12) - np.arange(12)[:, None]) % 12]
    chroma = np.sqrt(energy @ one_hot @ turned)
    sounding = chroma.max(axis=1) > 0
    level = performance.noise * chroma[sounding].mean()
    chroma[sounding] += level * rng.gamma(1.0, 1.0, (int(sounding.sum()), 12))
    norms = np.linalg.norm(chroma, axis=1, keepdims=True)
    return (chroma / np.where(norms > 0, norms, 1)).astype(np.float32)  # type: ignore[no-any-return]
