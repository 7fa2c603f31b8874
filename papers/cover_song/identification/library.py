"""The songs of a folder: which files, their features, and what was left out and why."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from common.errors import InputError
from papers.cover_song.audio.feature_cache import FeatureCache, SongFeatures
from papers.cover_song.audio.reading import KEPT_S, READABLE, UNREADABLE
from papers.cover_song.similarity.chroma_set import padded
from papers.cover_song.similarity.measures import Alignment

#: Samples a second from which CENS, which reaches 4.1 kHz, can be made in every tuning.
CENS_RATE: Final = 8_500


@dataclass(frozen=True)
class Skipped:
    """A file that could not be used; its suffix is one of music if it was ``looked_at``."""

    path: Path
    reason: str
    looked_at: bool = True


def resolved(path: Path) -> Path:
    """Where a file lies, so that one with two names is read once; a link to nothing is itself."""
    return path.resolve() if path.exists() else path.absolute()


def is_music(path: Path) -> bool:
    """Whether the suffix is one of music."""
    return path.suffix.lower() in READABLE | UNREADABLE


def music_files(folder: Path) -> tuple[list[Path], list[Skipped]]:
    """Files below a folder whose suffix is one of music, sorted; what else is to be seen there.

    Hidden files and folders are left out.

    Raises: InputError if the folder is not there, or holds no music.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    kinds = ", ".join(sorted(READABLE))
    files: list[Path] = []
    skipped: list[Skipped] = []

    def unreadable(error: OSError) -> None:
        skipped.append(Skipped(Path(error.filename), f"cannot be read ({error.strerror})"))

    for here, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        linked = [path for name in folders if (path := Path(here, name)).is_symlink()]
        skipped += [Skipped(path, "a link to a folder, which is not followed") for path in linked]
        files += [Path(here, name) for name in names if not name.startswith(".")]
    for path in files:
        if not is_music(path):
            kind = path.suffix or "a name without suffix"
            skipped.append(Skipped(path, f"{kind} is not read; allowed: {kinds}", False))
    music = sorted(filter(is_music, files))
    if not music:
        raise InputError(f"{folder}: holds no music; looked for files named {kinds}")
    by_path = sorted(skipped, key=lambda each: each.path)
    return music, [replace(each, path=each.path.absolute()) for each in by_path]


def load_songs(
    paths: list[Path], cache: FeatureCache, advance: Callable[[int], object] | None = None
) -> tuple[list[SongFeatures], list[Skipped]]:
    """Features of what can be used; of the rest, why not."""
    songs, skipped = [], []
    for path in paths:
        try:
            songs.append(_comparable(path, cache))
        except InputError as error:
            skipped.append(Skipped(path, str(error).removeprefix(f"{path}: ")))
        if advance:
            advance(1)
    return songs, skipped


def _comparable(path: Path, cache: FeatureCache) -> SongFeatures:
    """Raises InputError, beside what the cache does, for what no measure can compare."""
    import soundfile  # type: ignore[import-untyped]
    from librosa.util.exceptions import ParameterError

    try:
        song = cache.load(path)
    except ParameterError:
        rate = soundfile.info(path).samplerate
        raise InputError(
            f"{rate} Hz; allowed with --feature {cache.feature}: from {CENS_RATE} Hz on"
        ) from None
    sounds, least = int(padded([song.chroma], KEPT_S).lengths[0]), Alignment().shortest
    if sounds < least:
        raise InputError(f"is silent from second {sounds} on; allowed: sound up to second {least}")
    return song
