"""Chroma on a device, by torchaudio: what :mod:`.features` computes on a processor."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.errors import InputError
from papers.cover_song.audio.features import (
    HIGHEST,
    LOWEST,
    SHORTEST_FRAME,
    pitch_class_weights,
)
from papers.cover_song.similarity.chroma_set import unit_frames


def usable_device(name: str) -> torch.device:
    """A device by its name. Raises InputError unless it is a processor or a GPU that is here."""
    gpus = torch.cuda.device_count()
    # Not asked of torch: an index of its own is counted modulo 256.
    here = {"cpu", *(["cuda"] if gpus else []), *(f"cuda:{index}" for index in range(gpus))}
    if name not in here:
        found = f", cuda:0 to {gpus - 1}" if gpus else ""
        raise InputError(f"device {name!r}: allowed here: cpu{found}")
    return torch.device(name)


def device_chroma(
    samples: NDArray[np.float32], rate: int, device: torch.device
) -> NDArray[np.float32]:
    """:func:`~.features.song_chroma` of a recording (n,), computed on a device: (seconds, 12).

    Equal to it but for rounding: one vector a second, of unit length, tuning corrected.

    Raises: InputError for sound under half a second, or if the device has too little memory.
    """
    if len(samples) < SHORTEST_FRAME * rate:
        raise InputError(f"samples {samples.shape} at {rate} Hz: allowed: from half a second on")
    try:
        spectra = second_spectra(torch.from_numpy(samples).to(device), rate)
        cents = round(100 * estimate_tuning(spectra))
        weights = torch.from_numpy(pitch_class_weights(spectra.shape[1], cents)).to(device)
        energy = (spectra.square() @ weights.T).cpu().numpy()
    except torch.OutOfMemoryError:
        raise InputError(f"{device}: too little memory for {len(samples)} samples") from None
    return unit_frames(np.sqrt(energy))


def second_spectra(samples: Tensor, rate: int) -> Tensor:
    """Magnitudes of Hann windows of a second without overlap: (n,) to (seconds, rate // 2 + 1)."""
    from torchaudio.functional import spectrogram

    whole, rest = divmod(len(samples), rate)
    count = whole + (rest >= SHORTEST_FRAME * rate)
    padded = samples.new_zeros(count * rate)
    padded[: len(samples)] = samples[: len(padded)]
    found: Tensor = spectrogram(
        padded,
        pad=0,
        window=torch.hann_window(rate, device=samples.device),
        n_fft=rate,
        hop_length=rate,
        win_length=rate,
        power=1.0,
        normalized=False,
        center=False,
    )
    return found.T


def estimate_tuning(spectra: Tensor) -> float:
    """Semitones from A = 440 Hz, -0.5 to 0.5: the circular mean of spectral peaks' deviations."""
    low, high = int(LOWEST), min(int(HIGHEST), spectra.shape[1] - 2)
    left, middle, right = (spectra[:, low + k : high + k] for k in (-1, 0, 1))
    floor = (middle.amax(dim=1, keepdim=True) / 100).clamp(min=1e-9)
    peaks = (middle > left) & (middle >= right) & (middle > floor)
    if not bool(peaks.any()):
        return 0.0
    magnitudes = middle[peaks].double()
    a, b, c = ((each[peaks].double() + 1e-12).log() for each in (left, middle, right))
    curve = a - 2 * b + c
    offset = torch.where(curve < 0, 0.5 * (a - c) / torch.where(curve < 0, curve, -1.0), 0.0)
    turns = 12 * torch.log2((low + peaks.nonzero()[:, 1] + offset) / 440) * (2 * math.pi)
    sine, cosine = ((magnitudes * f(turns)).sum() for f in (torch.sin, torch.cos))
    return float(torch.atan2(sine, cosine) / (2 * math.pi))
