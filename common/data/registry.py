"""Registered data sets: what they consist of, where they come from, where they lie here.

Each set has one YAML manifest in ``manifests/`` (:class:`DataSet`) with the checksum and the home
of its files. It lies in a folder of its name below ``--data-root``; where that is not given, below
``REPRO_DATA`` or the user's cache.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import urljoin

from platformdirs import user_cache_path
from pydantic import Field, model_validator

from common.errors import InputError
from common.experiments.documents import read_yaml, user_path
from common.experiments.schema import NAME
from common.experiments.settings import Settings, validated
from common.runs.files import file_sha256
from common.runs.record import DataIdentity

SHA256 = r"^[0-9a-f]{64}$"
WEB = r"^https?://"


class File(Settings):
    """One file (or folder) of a data set. A checksum that is not known is left out."""

    sha256: str | None = Field(None, pattern=SHA256)
    published: str | None = Field(
        None,
        pattern=r"^(md5:[0-9a-f]{32}|sha1:[0-9a-f]{40})$",
        description="checksum that the home lists, where SHA-256 is not known",
    )
    bytes: int | None = Field(None, ge=0)
    url: str | None = Field(
        None,
        description="relative to the layout's base, or absolute, or the name inside the archive; "
        "default: the file's own path; empty: the file has no home",
    )

    @property
    def checksum(self) -> str | None:
        """``algorithm:hex``, or None where no checksum is known."""
        return f"sha256:{self.sha256}" if self.sha256 else self.published


class Archive(Settings):
    """An archive at the set's home and the files of the set that are taken from it."""

    url: str = Field(pattern=WEB)
    sha256: str = Field(pattern=SHA256)
    bytes: int = Field(gt=0)
    unpack: Literal["tar", "zip"]
    limit: int = Field(gt=0, description="bytes that the files may have together, unpacked")
    files: dict[str, File] = Field(min_length=1)


class Layout(Settings):
    """One complete way in which a set can lie in its folder."""

    base: str = Field("", description="URL that the files' own are relative to")
    files: dict[str, File] = Field({})
    archives: list[Archive] = Field([])

    @model_validator(mode="after")
    def _check(self) -> Layout:
        if not self.contents:
            raise ValueError("a layout needs at least one file")
        unsafe = [path for path in self.contents if leads_outside(path)]
        if unsafe:
            raise ValueError(f"paths {unsafe} must be relative, without '..'")
        return self

    @property
    def contents(self) -> dict[str, File]:
        """Every file of the layout, by its path in the set's folder."""
        unpacked = {path: file for each in self.archives for path, file in each.files.items()}
        return self.files | unpacked

    def url(self, path: str) -> str | None:
        """Where the file can be downloaded on its own; None if nowhere."""
        file = self.files[path]
        if file.url == "" or not (self.base or file.url):
            return None
        return urljoin(self.base, file.url or path)

    @property
    def has_home(self) -> bool:
        """Whether anything of the layout can be downloaded."""
        return bool(self.archives) or any(map(self.url, self.files))


class DataSet(Settings):
    """A manifest: one data set and the layouts in which it is accepted."""

    name: str = Field(pattern=NAME)
    title: str = Field(min_length=1)
    home: str = Field(pattern=WEB, description="page that describes the set")
    licence: str = Field(min_length=1)
    citation: str = Field(min_length=1)
    get: str = Field("", description="what to put where, if it cannot be downloaded freely")
    layouts: dict[str, Layout] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> DataSet:
        if not self.get and not all(
            layout.url(path) for layout in self.layouts.values() for path in layout.files
        ):
            raise ValueError("'get' must say how to come by the files that have no URL")
        return self


Status = Literal["ok", "missing", "wrong checksum", "present, not checksummed"]


@dataclass(frozen=True)
class FileStatus:
    """What was found where a file of a set should lie."""

    path: str
    status: Status
    detail: str = ""

    @property
    def good(self) -> bool:
        """Whether the file is there and nothing is known against it."""
        return self.status in ("ok", "present, not checksummed")


@cache
def registry() -> Mapping[str, DataSet]:
    """All manifests, by the name of the set."""
    sets = {}
    with resources.as_file(resources.files("common.data") / "manifests") as folder:
        for path in sorted(folder.glob("*.yaml")):
            entry = validated(DataSet, read_yaml(path), str(path))
            if entry.name != path.stem:
                raise InputError(f"{path}: key 'name': must be {path.stem!r}, got {entry.name!r}")
            sets[entry.name] = entry
    return sets


def data_set(name: str) -> DataSet:
    """The manifest of a set. Raises InputError that lists the known names."""
    known = registry()
    if name not in known:
        near = get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise InputError(f"data set {name!r}: not registered; {hint}known: {', '.join(known)}")
    return known[name]


def roots(root: Path | None = None) -> list[Path]:
    """Folders that are searched, in order: ``root`` alone if one is named. ``~`` is the home."""
    if root:
        return [user_path(str(root))]
    named = os.environ.get("REPRO_DATA")
    cache = os.environ.get("REPRO_CACHE")
    given = [user_path(named)] if named else []
    return [*given, user_path(cache) if cache else user_cache_path("paper-reproductions")]


def located(name: str, root: Path | None = None) -> Path | None:
    """Folder of a data set, in the first root that has it; None if none has."""
    return next((each / name for each in roots(root) if (each / name).is_dir()), None)


def find(name: str, root: Path | None = None) -> Path:
    """Folder of a registered data set. Raises InputError that says where it was looked for."""
    folder = located(name, root)
    if folder is None:
        where = ", ".join(map(str, roots(root)))
        raise InputError(
            f"data set {name!r} is in none of: {where}; "
            f"get it with `python -m common.data fetch {name}`, or point REPRO_DATA at its parent"
        )
    return folder


def identity(
    name: str, files: Iterable[str] | None = None, root: Path | None = None
) -> DataIdentity:
    """What a run notes of the registered files it reads: their SHA-256, checked.

    Args:
        files: paths in the set's folder; every registered file that lies there unless given.

    Raises:
        InputError: a file is not in the manifest, is absent, or has another checksum.
    """
    layouts = data_set(name).layouts.values()
    known = {path: file for layout in layouts for path, file in layout.contents.items()}
    folder = find(name, root)
    if files is None:
        files = [path for path in known if (folder / path).is_file()]
    checksums = {}
    for path in files:
        if path not in known:
            raise InputError(f"data set {name!r}: file {path!r} is not in its manifest")
        status = check_file(known[path], folder, path)
        if not status.good or not (folder / path).is_file():
            raise InputError(
                f"data set {name!r}: {folder / path}: {status.detail or 'no such file'}; "
                f"`python -m common.data fetch {name}` gets it"
            )
        checksums[path] = known[path].sha256 or file_sha256(folder / path)
    return DataIdentity(name=name, real=True, source="registry", sha256=checksums)


def verify(name: str, root: Path | None = None) -> list[FileStatus]:
    """Status of every file of a set, wherever it lies; all are missing if it lies nowhere."""
    return check(data_set(name), located(name, root) or roots(root)[0] / name)


def check(entry: DataSet, folder: Path) -> list[FileStatus]:
    """Status of the files in ``folder``, of the layout of which most is there."""
    found = [check_layout(layout, folder) for layout in entry.layouts.values()]
    return max(found, key=lambda files: sum(file.good for file in files) / len(files))


def check_layout(layout: Layout, folder: Path) -> list[FileStatus]:
    """Status of every file of a layout."""
    return [check_file(file, folder, path) for path, file in layout.contents.items()]


def check_file(file: File, folder: Path, path: str) -> FileStatus:
    """Status of the file ``path`` of a set that lies in ``folder``."""
    if not (folder / path).exists():
        return FileStatus(path, "missing")
    if not ((folder / path).is_file() or (folder / path).is_dir()):  # a pipe would block the reader
        return FileStatus(path, "wrong checksum", "is neither a file nor a folder")
    if file.checksum is None:
        return FileStatus(path, "present, not checksummed")
    algorithm, _, expected = file.checksum.partition(":")
    try:
        with (folder / path).open("rb") as stream:
            found = hashlib.file_digest(stream, algorithm).hexdigest()
    except OSError as error:
        return FileStatus(path, "wrong checksum", f"cannot be read ({error.strerror})")
    if found != expected:
        return FileStatus(
            path, "wrong checksum", f"{algorithm} is {found}, the manifest has {expected}"
        )
    return FileStatus(path, "ok")


def leads_outside(path: str) -> bool:
    """Whether a path inside a set or an archive is absolute or climbs out of its folder."""
    parts = PurePosixPath(path).parts
    return not parts or path.startswith("/") or ".." in parts or "\\" in path
