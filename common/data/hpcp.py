"""Pitch class profiles of real cover songs, without audio: SHS100K-TEST and covers80, one form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from common.data.files import frozen, labels_array, read_arrays
from common.data.registry import find
from common.errors import InputError

PITCH_CLASSES: Final = 12
#: Seconds of a song that are kept, from its beginning.
KEPT_S: Final = 180
#: Seconds from one frame of the full-length profiles to the next: 40 hops of 512 samples.
FRAME_S: Final = 40 * 512 / 44_100


@dataclass(frozen=True, eq=False)
class Songs:
    """Versions of works, as harmonic pitch class profiles at one row a second; read-only arrays.

    Attributes:
        profiles (n, 180, 12): uint8, 255 times the mean over a second of frames that were each
            divided by their maximum; zero after the end. Compare under circular shifts.
        seconds (n,): int64, rows that hold the song, 1 to 180; the last may hold a part of one.
        duration_s (n,): float64, of the whole song.
        set_id (n,): int64, the work. Split by it, never by song.
        names: SHS100K's "<set>_<version>"; covers80's "<work>/<track>".
    """

    profiles: npt.NDArray[np.uint8]
    seconds: npt.NDArray[np.int64]
    duration_s: npt.NDArray[np.float64]
    set_id: npt.NDArray[np.int64]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def of_works(self, set_ids: npt.ArrayLike) -> Songs:
        """All versions of the named works, in the order in which they are here."""
        rows = np.flatnonzero(np.isin(self.set_id, set_ids))
        return Songs(
            frozen(self.profiles[rows]),
            frozen(self.seconds[rows]),
            frozen(self.duration_s[rows]),
            frozen(self.set_id[rows]),
            tuple(self.names[row] for row in rows),
        )


def shs100k_hpcp(root: Path | None = None) -> Songs:
    """9,385 songs of SHS100K-TEST, 2 to 162 versions of each of 1,512 works.

    Recordings of covers80 are among them: leave out works that resemble one of its tracks before
    training what is judged there.

    Raises: InputError if the file is absent or malformed.
    Source: Xu, Chen, Yang 2018 (list of songs).
    """
    path = find("shs100k_hpcp", root) / "shs100k_hpcp_1hz.npz"
    dtypes = {"set_id": "int32", "ver_id": "int32", "seconds": "int16", "duration_s": "float32"}
    profiles, *columns = read_arrays(path, ["X", *dtypes])
    _check(path, "X", profiles, (len(np.atleast_1d(columns[0])), KEPT_S, PITCH_CLASSES), "uint8")
    for (name, dtype), column in zip(dtypes.items(), columns, strict=True):
        _check(path, name, column, (len(profiles),), dtype)
    set_id, version, seconds, duration_s = columns
    _check_ends(path, profiles, seconds)
    for row in np.flatnonzero(~(np.isfinite(duration_s) & (duration_s > 0))):
        raise InputError(f"{path}: song {row} lasts {duration_s[row]} s; allowed: above 0")
    songs = [f"{work}_{each}" for work, each in zip(set_id.tolist(), version.tolist(), strict=True)]
    if len(set(songs)) < len(songs):
        twice = next(name for name in songs if songs.count(name) > 1)
        raise InputError(f"{path}: song {twice} (set_id, ver_id) is there twice; allowed: once")
    return Songs(
        profiles,
        labels_array(seconds),
        frozen(duration_s.astype(np.float64)),
        labels_array(set_id),
        tuple(songs),
    )


def covers80_hpcp(root: Path | None = None) -> Songs:
    """All 164 tracks of covers80, 2 to 4 versions of each of 80 works.

    A ``set_id`` is the place of the work's title among the sorted ones.

    Raises: InputError if the file is absent or malformed.
    Source: Ellis and Poliner 2007 (collection).
    """
    path, names, profiles, frames = _covers80(root)
    lengths = np.array([len(each) for each in frames])
    seconds = np.minimum(np.ceil(lengths * FRAME_S), KEPT_S).astype(np.int64)
    _check_ends(path, profiles, seconds)
    titles = [name.partition("/")[0] for name in names]
    place = {title: number for number, title in enumerate(sorted(set(titles)))}
    return Songs(
        profiles,
        frozen(seconds),
        frozen(lengths * FRAME_S),
        labels_array([place[title] for title in titles]),
        names,
    )


def covers80_hpcp_frames(root: Path | None = None) -> tuple[npt.NDArray[np.uint8], ...]:
    """The same 164 tracks in full: (frames, 12) each, a frame every ``FRAME_S`` seconds.

    Raises: InputError if the file is absent or malformed.
    """
    return _covers80(root)[3]


def _covers80(
    root: Path | None,
) -> tuple[Path, tuple[str, ...], npt.NDArray[np.uint8], tuple[npt.NDArray[np.uint8], ...]]:
    """(path, names, profiles, frames of each track)."""
    path = find("covers80", root) / "covers80_hpcp.npz"
    profiles, names, lengths, frames = read_arrays(path, ("X1hz", "names", "lengths", "frames"))
    count = len(np.atleast_1d(names))
    _check(path, "X1hz", profiles, (count, KEPT_S, PITCH_CLASSES), "uint8")
    _check(path, "lengths", lengths, (count,), "int64")
    if lengths.min(initial=1) < 1:
        raise InputError(f"{path}: lengths holds {lengths.min()}; allowed: at least 1")
    _check(path, "frames", frames, (int(lengths.sum()), PITCH_CLASSES), "uint8")
    if names.dtype.kind != "U" or names.ndim != 1:
        raise InputError(f"{path}: names is {names.shape} {names.dtype}; expected ({count},) text")
    nameless = [name for name in names.tolist() if not all(name.partition("/"))]
    if nameless:
        raise InputError(f"{path}: name {nameless[0]!r}; allowed: '<work>/<track>'")
    tracks = np.split(frames, np.cumsum(lengths)[:-1])
    return path, tuple(names.tolist()), profiles, tuple(frozen(track) for track in tracks)


def _check(
    path: Path, name: str, found: npt.NDArray[Any], shape: tuple[int, ...], dtype: str
) -> None:
    """Raise InputError unless the array ``name`` is what is expected."""
    if found.shape != shape or found.dtype != np.dtype(dtype):
        raise InputError(f"{path}: {name} is {found.shape} {found.dtype}; expected {shape} {dtype}")


def _check_ends(
    path: Path, profiles: npt.NDArray[np.uint8], seconds: npt.NDArray[np.integer[Any]]
) -> None:
    """Raise InputError unless each song has 1 to 180 rows, and only zeros after them."""
    for row in np.flatnonzero((seconds < 1) | (seconds > KEPT_S)):
        raise InputError(f"{path}: song {row} has {seconds[row]} seconds; allowed: 1 to {KEPT_S}")
    after = np.arange(KEPT_S) >= seconds[:, None]
    for row in np.flatnonzero((profiles.any(axis=2) & after).any(axis=1)):
        raise InputError(f"{path}: song {row} is not zero after its {seconds[row]} seconds")
