"""Chroma at one frame a second, of sound at any rate.

Windows of a second without overlap, as published: spectrum, energy folded to twelve pitch classes
from C on, square root. No resampling is needed, for a window is a second at every rate.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from papers.cover_song.similarity.chroma_set import unit_frames

Feature = Literal["chroma", "hpcp", "cens"]
FEATURES: Final = get_args(Feature)
#: Changes with what features are, so that a cache knows old ones.
VERSION: Final = 1
#: Range of frequencies in which tuning is looked for and profiles are made, Hz.
LOWEST, HIGHEST = 60.0, 5_000.0
#: Of HPCP: harmonics that a peak may be of, each weighted by this to its power less one; half-width
#: of the window around a pitch class, in semitones.
HPCP_HARMONICS, HPCP_DECAY, HPCP_WIDTH = 8, 0.6, 2 / 3
#: Frames at the end that hold less than this share of a second are left out.
SHORTEST_FRAME: Final = 0.5

Spectra = NDArray[np.float32]


def second_spectra(samples: NDArray[np.float32], rate: int) -> Spectra:
    """Magnitudes of Hann windows of a second, at 1 Hz a bin: (n,) to (seconds, rate // 2 + 1).

    A last part of at least half a second is filled up with zeros.
    """
    whole, rest = divmod(len(samples), rate)
    count = whole + (rest >= SHORTEST_FRAME * rate)
    padded = np.zeros(count * rate, np.float32)
    kept = min(len(samples), len(padded))
    padded[:kept] = samples[:kept]
    windows = padded.reshape(count, rate) * np.hanning(rate + 1)[:-1].astype(np.float32)
    found = np.empty((count, rate // 2 + 1), np.float32)
    for row, window in zip(found, windows, strict=True):  # one at a time: float64 inside
        row[:] = np.abs(np.fft.rfft(window))
    return found


def estimate_tuning(spectra: Spectra) -> float:
    """How far the music is tuned from A = 440 Hz, in semitones, from -0.5 to 0.5.

    The circular mean of the deviations of spectral peaks from the nearest semitone.
    """
    frequencies, magnitudes, _ = spectral_peaks(spectra)
    if not len(frequencies):
        return 0.0
    semitones = 12 * np.log2(frequencies / 440)
    turning = (magnitudes * np.exp(2j * np.pi * semitones)).sum()
    return float(np.angle(turning) / (2 * np.pi))


def spectral_peaks(
    spectra: Spectra,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Local maxima: frequency (Hz, by a parabola through three bins), magnitude, frame; (p,) each.

    Those below a hundredth of the frame's largest are left out.
    """
    low, high = int(LOWEST), min(int(HIGHEST), spectra.shape[1] - 2)
    left, middle, right = (spectra[:, low + k : high + k] for k in (-1, 0, 1))
    floor = np.maximum(middle.max(axis=1, keepdims=True) / 100, 1e-9)
    frame, place = np.nonzero((middle > left) & (middle >= right) & (middle > floor))
    a, b, c = (
        np.log(each[frame, place].astype(np.float64) + 1e-12) for each in (left, middle, right)
    )
    curve = a - 2 * b + c
    offset = np.where(curve < 0, 0.5 * (a - c) / np.where(curve < 0, curve, -1), 0)
    return low + place + offset, middle[frame, place].astype(np.float64), frame  # type: ignore[return-value]


@lru_cache(maxsize=8)
def pitch_class_weights(bins: int, tuning_cents: int = 0) -> NDArray[np.float32]:
    """From bins of 1 Hz to pitch classes: (12, bins).

    A bin's weights have a deviation of half a semitone around its pitch and unit length; octaves
    count less with the distance from 880 Hz. Above 20 Hz these are the weights of librosa's chroma
    filters, without the seconds that it takes to load; below they are zero.

    Source: Ellis 2007, chroma analysis.
    """
    frequencies = np.maximum(np.arange(bins), 1)
    octaves = np.log2(frequencies / (440 * 2 ** (tuning_cents / 1200) / 16))
    # C lies three semitones above the A that octaves count from.
    away = (12 * octaves - (np.arange(12)[:, None] + 3) + 6) % 12 - 6
    weights = np.exp(-2 * away**2)
    weights /= np.linalg.norm(weights, axis=0)
    weights *= np.exp(-0.5 * ((octaves - 5) / 2) ** 2)
    weights[:, :20] = 0
    return weights.astype(np.float32)


def _chroma(spectra: Spectra, tuning: float) -> NDArray[np.float32]:
    energy = spectra**2 @ pitch_class_weights(spectra.shape[1], round(100 * tuning)).T
    return np.sqrt(energy)  # type: ignore[no-any-return]


def _hpcp(spectra: Spectra, tuning: float) -> NDArray[np.float32]:
    """Harmonic pitch class profiles: each peak counts for what it may be a harmonic of.

    Source: Gomez 2006: squared cosine windows around pitch classes.
    """
    frequencies, magnitudes, frame = spectral_peaks(spectra)
    profiles = np.zeros((len(spectra), 12))
    classes = np.arange(12)
    for harmonic in range(1, HPCP_HARMONICS + 1):
        # Semitones above C.
        semitones = 12 * np.log2(frequencies / harmonic / 440) - tuning + 9
        away = (semitones[:, None] - classes + 6) % 12 - 6
        near = np.cos(np.pi / 2 * np.minimum(np.abs(away) / HPCP_WIDTH, 1)) ** 2
        weight = HPCP_DECAY ** (harmonic - 1) * magnitudes**2
        np.add.at(profiles, frame, weight[:, None] * near)
    largest = profiles.max(axis=1, keepdims=True)
    return (profiles / np.where(largest > 0, largest, 1)).astype(np.float32)


def _cens(samples: NDArray[np.float32], rate: int, tuning: float) -> NDArray[np.float32]:
    """Librosa's energy-normalised statistics, about ten a second, averaged over seconds."""
    import librosa

    hop = 2 ** int(np.log2(rate / 10))
    fine = librosa.feature.chroma_cens(y=samples, sr=rate, hop_length=hop, tuning=tuning).T
    second = (np.arange(len(fine)) * hop) // rate
    counts = np.bincount(second)
    total = np.zeros((len(counts), 12))
    np.add.at(total, second, fine)
    means = total / np.maximum(counts, 1)[:, None]
    return means[: max(1, round(len(samples) / rate))].astype(np.float32)


_OF_SPECTRA: Final[dict[str, Callable[[Spectra, float], NDArray[np.float32]]]] = {
    "chroma": _chroma,
    "hpcp": _hpcp,
}


def song_chroma(
    samples: NDArray[np.float32], rate: int, feature: Feature = "chroma"
) -> NDArray[np.float32]:
    """One unit vector of 12 pitch classes a second, tuning corrected: (n,) to (seconds, 12).

    Silent seconds are zero.

    Raises: InputError for an unknown feature, or sound under half a second.
    """
    if feature not in FEATURES:
        raise InputError(f"feature {feature!r}: allowed: {', '.join(FEATURES)}")
    if len(samples) < SHORTEST_FRAME * rate:
        raise InputError(f"samples {samples.shape} at {rate} Hz: allowed: from half a second on")
    spectra = second_spectra(samples, rate)
    tuning = estimate_tuning(spectra)
    if feature == "cens":
        return unit_frames(_cens(samples, rate, tuning))
    raw = _OF_SPECTRA[feature](spectra, tuning)
    if feature == "hpcp":
        # Each frame was divided by its maximum, which hides silence.
        level = np.linalg.norm(spectra, axis=1)
        raw = np.where((level >= 0.01 * np.median(level))[:, None], raw, 0)
    return unit_frames(raw)
