"""Notes as sound: additive, one waveform a pitch and duration, noise bursts as drums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from papers.cover_song.tasks.synthetic.performances import HARMONICS, Performance, Timbre

RATE: Final = 22_050
ATTACK_S: Final = 0.01


def render(
    performance: Performance, seconds: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Mono sound at 22.05 kHz of at most ``seconds``, its largest sample 0.9: (samples,)."""
    length = int(RATE * min(seconds, performance.end_s))
    sound = np.zeros(length, np.float32)
    longest = float(performance.notes[:, 1].max())
    waves: dict[int, NDArray[np.float32]] = {}
    for start, duration, pitch, gain in performance.notes:
        first = int(RATE * start)
        count = min(int(RATE * duration), length - first)
        if count <= 0:
            continue
        number = int(pitch)
        if number not in waves:
            waves[number] = _wave(number, longest, performance.timbre, performance.tuning_cents)
        tone = np.float32(gain) * waves[number][:count]
        fade = min(count, int(ATTACK_S * RATE))
        tone[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
        sound[first : first + count] += tone
    for time in performance.drums_s:
        first = int(RATE * time)
        count = min(RATE // 20, length - first)
        if count > 0:
            burst = rng.standard_normal(count) * np.exp(-np.arange(count) / (RATE / 80))
            sound[first : first + count] += (0.3 * burst).astype(np.float32)
    sound += (0.01 * performance.noise * rng.standard_normal(length)).astype(np.float32)
    return sound * np.float32(0.9 / max(float(np.abs(sound).max()), 1e-9))  # type: ignore[no-any-return]


def _wave(number: int, seconds: float, timbre: Timbre, cents: float) -> NDArray[np.float32]:
    """One pitch, all of its harmonics below 10 kHz, decaying from an attack of 10 ms."""
    time = np.arange(int(RATE * seconds) + 1, dtype=np.float32) / RATE
    frequency = 440 * 2 ** ((number - 69) / 12 + cents / 1200)
    amplitudes = timbre.amplitudes
    total = np.zeros_like(time)
    for harmonic in range(1, HARMONICS + 1):
        if harmonic * frequency < 10_000:
            angle = np.float32(2 * np.pi * harmonic * frequency) * time
            total += np.float32(amplitudes[harmonic - 1]) * np.sin(angle)
    envelope = np.exp(-time / np.float32(timbre.decay_s)) * np.minimum(time / ATTACK_S, 1)
    return (total * envelope).astype(np.float32)  # type: ignore[no-any-return]


def played(notes: Sequence[tuple[float, float, int]], timbre: Timbre) -> Performance:
    """A performance of given notes (start s, duration s, MIDI number), without noise."""
    rows = np.array([(start, duration, pitch, 1.0) for start, duration, pitch in notes])
    return Performance(rows, timbre, 0.0, np.empty(0), 0.0)
