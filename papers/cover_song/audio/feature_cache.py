"""Features of files, kept so that none is computed twice.

One small file a song, written whole or not at all; it is read again only if path, size, time of
change and kind of feature are those of the file, and its checksum is right.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from common.errors import InputError
from papers.cover_song.audio.features import VERSION, Feature, song_chroma
from papers.cover_song.audio.reading import KEPT_S, read_recording

#: Samples (n,) and their rate to (seconds, 12).
Chroma = Callable[[NDArray[np.float32], int], NDArray[np.float32]]
log = logging.getLogger("features")
#: Largest number of the integers that chroma is kept as.
_LEVELS: Final = 255


@dataclass(frozen=True, eq=False)
class SongFeatures:
    """Of one file: chroma (seconds, 12) float32, and what is unusual about it."""

    path: Path
    chroma: NDArray[np.float32]
    warnings: tuple[str, ...]
    cached: bool


class FeatureCache:
    """Chroma of files in a folder of small files.

    Args:
        folder: where they are kept; None keeps nothing.
        feature: which kind.
        device: where chroma is computed, "cuda" for a GPU; the other kinds know the processor
            alone. Files are read on the processor.

    Raises: InputError for a device that is not there, or of which the kind is not made.
    """

    def __init__(
        self, folder: Path | None, feature: Feature = "chroma", device: str = "cpu"
    ) -> None:
        self.folder, self.feature, self._compute = folder, feature, _computation(feature, device)

    def load(self, path: Path) -> SongFeatures:
        """Chroma of a file's first 180 s, computed if it is not known.

        Raises: InputError if the file cannot be used.
        """
        place = self._place(path)
        told = self._told(path)
        if place is not None and (known := _read(place, told)) is not None:
            chroma, warnings = known
            return SongFeatures(path, chroma, warnings, True)
        recording = read_recording(path, KEPT_S)
        chroma = self._compute(recording.samples, recording.rate)
        if place is not None:
            _write(place, chroma, told | {"warnings": list(recording.warnings)})
        # As it is read from the cache: whole numbers.
        return SongFeatures(path, _loudness(_whole(chroma)), recording.warnings, False)

    def _place(self, path: Path) -> Path | None:
        if self.folder is None:
            return None
        name = hashlib.sha256(f"{path.resolve()} {self.feature}".encode()).hexdigest()[:32]
        return self.folder / f"{name}.song"

    def _told(self, path: Path) -> dict[str, object]:
        try:
            status = path.stat()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from None
        return {
            "path": str(path.resolve()),
            "bytes": status.st_size,
            "changed_ns": status.st_mtime_ns,
            "feature": self.feature,
            "version": VERSION,
        }


def _computation(feature: Feature, device: str) -> Chroma:
    if device == "cpu":
        return partial(song_chroma, feature=feature)
    if feature != "chroma":
        raise InputError(f"device {device!r}: allowed for {feature}: cpu")
    from papers.cover_song.audio.device_features import device_chroma, usable_device

    return partial(device_chroma, device=usable_device(device))


def _whole(chroma: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.round(_LEVELS * chroma).astype(np.uint8)


def _loudness(whole: NDArray[np.uint8]) -> NDArray[np.float32]:
    return whole.astype(np.float32) / _LEVELS  # type: ignore[return-value]


def _write(place: Path, chroma: NDArray[np.float32], told: dict[str, object]) -> None:
    """A line of JSON, then the array; by one rename. A cache that cannot be written is no error."""
    rows = _whole(chroma).tobytes()
    head = json.dumps(told | {"sha256": hashlib.sha256(rows).hexdigest()})
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=place.parent)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(head.encode() + b"\n" + rows)
        Path(name).replace(place)
    except OSError as error:
        log.warning("%s: features are not kept (%s)", place.parent, error.strerror)


def _read(
    place: Path, told: dict[str, object]
) -> tuple[NDArray[np.float32], tuple[str, ...]] | None:
    """Chroma and warnings; None if the file is absent, damaged or of something else."""
    try:
        content = io.BytesIO(place.read_bytes())
        head = json.loads(content.readline())
        rows = content.read()
        same = all(head.get(key) == value for key, value in told.items())
        if not same or hashlib.sha256(rows).hexdigest() != head["sha256"]:
            return None
        chroma = _loudness(np.frombuffer(rows, np.uint8).reshape(-1, 12))
        return chroma, tuple(head["warnings"])
    except (OSError, ValueError, KeyError, AttributeError):
        return None
