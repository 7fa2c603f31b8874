"""covers80: beat-synchronous chroma of 162 tracks, versions of 80 works; no audio."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from common.data.files import labels_array, read_arrays, read_rows
from common.data.registry import find
from common.errors import InputError

PITCH_CLASSES: Final = 12


@dataclass(frozen=True, eq=False)
class Tracks:
    """Tracks with the work that each is a version of; the arrays are read-only.

    Attributes:
        chroma: n arrays (beats, 12), float32, >= 0, not normalised; where the axis starts is not
            known, so compare under circular shifts only.
        labels (n,): int64, index into ``works``.
        names: collection's name of each track.
        works: titles, sorted.
    """

    chroma: tuple[npt.NDArray[np.float32], ...]
    labels: npt.NDArray[np.int64]
    names: tuple[str, ...]
    works: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)


def covers80(root: Path | None = None) -> Tracks:
    """The 162 tracks whose chroma could be had, of the collection's 164.

    A beat is the tracker's (prior of 240 a minute), often an eighth note: 315 to 2,708 in a track.

    Raises: InputError if a file is absent or malformed, or the index and the arrays disagree.
    Source: Ellis and Poliner 2007 (features, collection).
    """
    folder = find("covers80", root)
    rows = read_rows(folder / "covers80_index.csv", ("key", "work_id", "track_id", "n_beats"))
    path = folder / "covers80_beat_chroma.npz"
    chroma = tuple(read_arrays(path, [row["key"] for row in rows]))
    for row, track in zip(rows, chroma, strict=True):
        shape = f"({row['n_beats']}, {PITCH_CLASSES})"
        if str(track.shape) != shape or track.dtype != np.float32:
            raise InputError(
                f"{path}: {row['key']} is {track.shape} {track.dtype}; expected {shape} float32"
            )
    works = tuple(sorted({row["work_id"] for row in rows}))
    return Tracks(
        chroma,
        labels_array([works.index(row["work_id"]) for row in rows]),
        tuple(row["track_id"] for row in rows),
        works,
    )
