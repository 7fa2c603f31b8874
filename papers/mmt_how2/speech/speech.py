"""What a recogniser hears: 40 numbers a frame of a waveform, by torchaudio."""

from __future__ import annotations

import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from common.data.files import reading
from common.errors import InputError
from common.experiments.settings import Settings


class SpeechFeatures(Settings):
    """MFCC as the paper's recogniser hears them, or the log-mel energies under them.

    The paper states 40 MFCC a frame; windows and normalisation are our choice.
    """

    kind: Literal["mfcc", "log_mel"] = "mfcc"
    sample_rate: int = Field(16_000, gt=0, description="Hz")
    coefficients: int = Field(40, gt=0)
    window_ms: float = Field(25.0, gt=0)
    hop_ms: float = Field(10.0, gt=0)
    normalised: bool = Field(True, description="to mean 0 and variance 1 over each utterance")

    def transform(self) -> nn.Module:
        """torchaudio's transform of waves (..., samples) to (..., coefficients, frames)."""
        from torchaudio import transforms

        window = round(self.sample_rate * self.window_ms / 1000)
        mel = {
            # Twice the next power of two, so that no mel band lies between two frequencies.
            "n_fft": 2 ** (window.bit_length() + 1),
            "win_length": window,
            "hop_length": round(self.sample_rate * self.hop_ms / 1000),
            "n_mels": self.coefficients,
            "pad_mode": "constant",
        }
        if self.kind == "mfcc":
            mfcc: nn.Module = transforms.MFCC(self.sample_rate, self.coefficients, melkwargs=mel)
            return mfcc
        # The floor is 80 dB under an utterance's loudest place, as that of MFCC, so that a gain
        # adds the same to all frames.
        return nn.Sequential(
            transforms.MelSpectrogram(self.sample_rate, **mel),
            transforms.AmplitudeToDB("power", top_db=80.0),
        )


def features(waves: Sequence[Tensor], settings: SpeechFeatures) -> list[Tensor]:
    """Of each wave (samples,), whose loudest value is at most 1, the frames (t, coefficients).

    Raises:
        InputError: a wave is empty or no vector.
    """
    transform = settings.transform()
    found = []
    for number, samples in enumerate(waves, start=1):
        if samples.dim() != 1 or not len(samples):
            raise InputError(f"wave {number} is {tuple(samples.shape)}; allowed: (samples,)")
        frames = transform(samples).T
        found.append(normalised(frames) if settings.normalised else frames)
    return found


def normalised(frames: Tensor) -> Tensor:
    """Frames (t, n) with mean 0 and variance 1 over time; a constant number becomes 0 (CMVN)."""
    centred = frames - frames.mean(0)
    return centred / centred.std(0, correction=0).clamp_min(1e-5)


def read_wave(path: Path, sample_rate: int) -> Tensor:
    """Samples (n,) from -1 to 1 of a WAV file of one channel and 16 bits, resampled.

    Raises:
        InputError: the file is absent, of another kind, empty, or shorter than its header says.
    """
    from torchaudio.functional import resample

    with reading(path):
        try:
            with wave.open(str(path), "rb") as stream:
                kind = stream.getnchannels(), stream.getsampwidth()
                rate, count = stream.getframerate(), stream.getnframes()
                data = stream.readframes(count)
        except wave.Error as error:
            raise InputError(f"{path}: no WAV file ({error})") from None
    if kind != (1, 2):
        raise InputError(f"{path}: {kind[0]} channels of {kind[1]} bytes; allowed: 1 of 2")
    if not count or len(data) != 2 * count:
        raise InputError(f"{path}: {len(data) / 2:g} of {count} samples; allowed: all, from 1")
    samples = torch.from_numpy(np.frombuffer(data, dtype="<i2").astype(np.float32) / 2**15)
    resampled: Tensor = resample(samples, rate, sample_rate)
    return resampled


def write_wave(path: Path, samples: Tensor, sample_rate: int) -> None:
    """Write samples (n,) from -1 to 1 as a WAV file of one channel and 16 bits, to listen to."""
    whole = (samples.clamp(-1, 1) * (2**15 - 1)).round().to(torch.int16)
    with wave.open(str(path), "wb") as stream:
        stream.setnchannels(1)
        stream.setsampwidth(2)
        stream.setframerate(sample_rate)
        stream.writeframes(whole.numpy().astype("<i2").tobytes())
