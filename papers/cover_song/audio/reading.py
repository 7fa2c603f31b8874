"""Audio files as one channel of samples, with what a listener should be told of each.

libsndfile reads WAV, FLAC, OGG Vorbis, Opus and MP3. Files that are damaged, silent, too short or
not audio are named with a reason.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError

#: Seconds that are read, from the beginning; the least that a song must have; of one block.
KEPT_S, SHORTEST_S, BLOCK_S = 180, 20, 10
#: Suffixes of files that are looked at in a folder; libsndfile reads the first kind.
READABLE: Final = frozenset({".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff"})
UNREADABLE: Final = frozenset({".m4a", ".aac", ".wma", ".mp4", ".alac", ".ape"})
#: A mix of channels below this share of the loudest one's level: they cancel each other out.
CANCELLED: Final = 0.1
#: Largest sample of what counts as silent: 80 dB below full scale.
SILENT: Final = 1e-4
RATES: Final = (4_000, 384_000)


@dataclass(frozen=True, eq=False)
class Recording:
    """The beginning of a file.

    Attributes:
        samples (n,): float32, one channel.
        rate: samples a second.
        warnings: what is unusual about it, in words.
    """

    samples: NDArray[np.float32]
    rate: int
    warnings: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """How long the part is that was read."""
        return len(self.samples) / self.rate


def read_recording(path: Path, seconds: float = KEPT_S) -> Recording:
    """The first ``seconds`` of a file, its channels averaged.

    Read in blocks, so that an hour costs no memory and what comes before a damaged place is kept.

    Raises:
        InputError: no such file, empty, not audio, silent, under 20 s, or a rate that is none of
            music's.
    """
    import soundfile  # type: ignore[import-untyped]

    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if not path.stat().st_size:
        raise InputError(f"{path}: is empty")
    if path.suffix.lower() in UNREADABLE:
        raise InputError(f"{path}: {path.suffix} is not read; allowed: {_allowed()}")
    blocks: list[NDArray[np.float32]] = []
    warnings = []
    try:
        with _without_the_decoders_words(), soundfile.SoundFile(path) as file:
            rate, promised = file.samplerate, file.frames
            if not RATES[0] <= rate <= RATES[1]:
                raise InputError(f"{path}: {rate} Hz; allowed: {RATES[0]} to {RATES[1]}")
            wanted = int(seconds * rate)
            while (left := wanted - sum(map(len, blocks))) > 0:
                block = file.read(min(left, BLOCK_S * rate), dtype="float32", always_2d=True)
                if not len(block):
                    break
                blocks.append(block)
    except soundfile.LibsndfileError:
        if not blocks:
            raise InputError(f"{path}: not audio that can be read; allowed: {_allowed()}") from None
        warnings.append(
            f"damaged after {sum(map(len, blocks)) / rate:.0f} s; what came before is used"
        )
    channels = np.concatenate(blocks) if blocks else np.empty((0, 1), np.float32)
    got = len(channels)
    if not warnings and got < min(promised, wanted):
        warnings.append(
            f"truncated: {got / rate:.0f} of {min(promised, wanted) / rate:.0f} s could be read"
        )
    if not np.isfinite(channels).all():
        raise InputError(f"{path}: holds samples that are no numbers")
    if got < SHORTEST_S * rate:
        raise InputError(f"{path}: {got / rate:.1f} s; allowed: from {SHORTEST_S} s on")
    samples, told = _mixed(channels)
    if np.abs(samples).max() < SILENT:
        raise InputError(f"{path}: is silent in its first {got / rate:.0f} s")
    return Recording(samples, rate, (*warnings, *told))


def _mixed(channels: NDArray[np.float32]) -> tuple[NDArray[np.float32], list[str]]:
    """Mean of channels (n, c), or the loudest alone where they cancel; and what to say of it."""
    mix = channels.mean(axis=1)
    levels = np.sqrt((channels.astype(np.float64) ** 2).mean(axis=0))
    level = float(np.sqrt((mix.astype(np.float64) ** 2).mean()))
    if level < CANCELLED * levels.max():
        loudest = int(levels.argmax())
        return channels[:, loudest], [f"channels cancel each other; channel {loudest + 1} is used"]
    return mix, []


@contextmanager
def _without_the_decoders_words() -> Iterator[None]:
    """The MP3 decoder prints a line for each damaged frame; warnings tell what matters of it."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(nowhere)
        os.close(kept)


def _allowed() -> str:
    return ", ".join(sorted(suffix[1:].upper() for suffix in READABLE))
