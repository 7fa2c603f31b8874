"""The songs of a folder: which files, their features, and what was left out and why."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from common.errors import InputError
from papers.cover_song.audio.feature_cache import FeatureCache, SongFeatures
from papers.cover_song.audio.reading import READABLE, UNREADABLE


@dataclass(frozen=True)
class Skipped:
    """A file that could not be used."""

    path: Path
    reason: str


def music_files(folder: Path) -> list[Path]:
    """Files below a folder whose suffix is one of music, sorted; hidden ones are left out.

    Raises: InputError if the folder is not there, or holds none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    found = sorted(_walked(folder))
    if not found:
        kinds = ", ".join(sorted(READABLE))
        raise InputError(f"{folder}: holds no music; looked for files named {kinds}")
    return found


def _walked(folder: Path) -> Iterator[Path]:
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in READABLE | UNREADABLE:
                yield Path(here) / name


def load_songs(
    paths: list[Path], cache: FeatureCache, advance: Callable[[int], object] | None = None
) -> tuple[list[SongFeatures], list[Skipped]]:
    """Features of what can be used; of the rest, why not."""
    songs, skipped = [], []
    for path in paths:
        try:
            songs.append(cache.load(path))
        except InputError as error:
            skipped.append(Skipped(path, str(error).removeprefix(f"{path}: ")))
        if advance:
            advance(1)
    return songs, skipped
