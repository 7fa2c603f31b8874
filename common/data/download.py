"""Download registered data sets from their homes; nothing with a wrong checksum is kept.

A file is downloaded into a hidden folder beside the set, checked, and moved into place by one
rename: a set that was interrupted holds whole files alone, and the same command goes on with the
others.
"""

from __future__ import annotations

import logging
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, NamedTuple

import pooch
import requests
from tqdm import tqdm

from common.data.registry import (
    Archive,
    DataSet,
    check,
    check_file,
    check_layout,
    data_set,
    leads_outside,
    roots,
)
from common.errors import InputError
from common.runs.files import disk_failure

#: How often a broken transfer is tried again.
RETRIES = 2
log = logging.getLogger("data")


def fetch(name: str, root: Path | None = None) -> Path:
    """Download a registered set into the first root; returns its folder.

    Raises:
        InputError: unknown set, a set that must be put there by hand, an unreachable home, a
            wrong checksum.
    """
    entry = data_set(name)
    folder = roots(root)[0] / name
    download(entry, folder)
    return folder


def download(entry: DataSet, folder: Path) -> None:
    """Download into ``folder`` what it lacks of the set. Raises InputError as :func:`fetch`."""
    if all(file.good for file in check(entry, folder)):
        log.info("%s: complete in %s", entry.name, folder)
        return
    layout = next((each for each in entry.layouts.values() if each.has_home), None)
    if layout is None:
        raise InputError(f"data set {entry.name!r} cannot be downloaded: {entry.get} ({folder})")
    wanted = {file.path for file in check_layout(layout, folder) if not file.good}
    homes = {path: url for path in layout.files if path in wanted and (url := layout.url(path))}
    with _staging(folder) as staging:
        for path, url in homes.items():
            by_hand = f"put it at {folder / path}"
            _retrieve(entry, url, layout.files[path].checksum, staging / path, by_hand)
            _move(staging, folder, path)
        for archive in layout.archives:
            if wanted & set(archive.files):
                packed = staging / ".archive"
                by_hand = f"unpack it in {folder}"
                _retrieve(entry, archive.url, f"sha256:{archive.sha256}", packed, by_hand)
                unpack(archive, packed, staging)
                packed.unlink()
                for path in archive.files:
                    _move(staging, folder, path)
    rest = [path for path in layout.files if path in wanted and path not in homes]
    if rest:
        raise InputError(
            f"data set {entry.name!r}: {folder} still lacks {', '.join(rest)}: {entry.get}"
        )


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A temporary folder beside ``folder``."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as staging:
            yield Path(staging)
    except OSError as error:
        where = error.filename or folder
        raise InputError(f"{where}: cannot be written ({error.strerror or error})") from None


def _move(staging: Path, folder: Path, path: str) -> None:
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (staging / path).chmod(0o644)  # pooch's temporary files are for their owner alone
    (staging / path).replace(folder / path)


def _retrieve(entry: DataSet, url: str, checksum: str | None, part: Path, by_hand: str) -> None:
    """Download ``url`` to ``part``; ``by_hand`` says what a user can do with a copy of it."""
    log.info("%s: %s", entry.name, url)
    pooch.get_logger().setLevel("WARNING")
    bar = tqdm(total=1, desc=part.name, unit="B", unit_scale=True, disable=None, leave=False)
    store = pooch.create(
        path=part.parent,
        base_url="",
        registry={part.name: checksum},
        urls={part.name: url},
        retry_if_failed=RETRIES,
    )
    otherwise = f"or {by_hand} by hand and run `python -m common.data verify {entry.name}`"
    try:
        with bar:
            store.fetch(
                part.name, downloader=pooch.HTTPDownloader(progressbar=bar, chunk_size=2**16)
            )
    except requests.HTTPError as error:
        raise InputError(
            f"data set {entry.name!r}: {error}; try later, {otherwise}"  # the error names the URL
        ) from None
    except requests.RequestException as error:
        raise InputError(
            f"data set {entry.name!r}: {url}: cannot be downloaded ({type(error).__name__}); "
            f"check the connection and try again, {otherwise}"
        ) from None
    except ValueError as error:  # pooch's word for a wrong checksum; it names both sums
        raise InputError(f"data set {entry.name!r}: {url}: {error}") from None


class Entry(NamedTuple):
    """What an archive holds under one name."""

    ordinary: bool  # a regular file or a folder: no link, no device
    size: int
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Archive, packed: Path, into: Path) -> None:
    """Copy the registered files of the archive ``packed`` to their paths below ``into``.

    Only names from the manifest are ever written to. An archive that holds any entry that leads
    outside, or that is a link or a device, is refused as a whole.

    Raises:
        InputError: such an entry, an absent file, more bytes than allowed, a wrong checksum, or a
            file that is no such archive.
    """
    try:
        with _opened(packed, archive.unpack) as entries:
            _refuse_unsafe(archive, entries)
            for path, file in archive.files.items():
                source = entries[file.url or path].open()
                if source is None:
                    raise InputError(f"{archive.url}: entry {file.url or path!r} is not a file")
                (into / path).parent.mkdir(parents=True, exist_ok=True)
                with source, (into / path).open("wb") as target:
                    shutil.copyfileobj(source, target)
                status = check_file(file, into, path)
                if not status.good:
                    raise InputError(f"{archive.url}: {path}: {status.detail}")
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        EOFError,
        lzma.LZMAError,
        zlib.error,
        OSError,  # bzip2's and gzip's, or of a place that is not in the file
        RuntimeError,  # encrypted, or packed in a way that is not known
    ) as error:
        if isinstance(error, OSError) and (error.filename or disk_failure(error)):
            raise
        raise InputError(
            f"{archive.url}: not a readable {archive.unpack} archive ({error})"
        ) from None


def _refuse_unsafe(archive: Archive, entries: dict[str, Entry]) -> None:
    for name, entry in entries.items():
        if leads_outside(name) or not entry.ordinary:
            raise InputError(
                f"{archive.url}: entry {name!r} leads outside the archive or is a link; refused"
            )
    needed = [file.url or path for path, file in archive.files.items()]
    absent = [name for name in needed if name not in entries]
    if absent:
        raise InputError(f"{archive.url}: the archive lacks {', '.join(absent)}")
    total = sum(entries[name].size for name in needed)
    if total > archive.limit:
        raise InputError(
            f"{archive.url}: unpacks to {total} bytes, more than the {archive.limit} allowed"
        )


@contextmanager
def _opened(packed: Path, kind: str) -> Iterator[dict[str, Entry]]:
    """Entries of a tar (of any compression) or zip archive, by name."""
    if kind == "zip":
        with zipfile.ZipFile(packed) as opened_zip:
            yield {
                item.filename: Entry(
                    _ordinary(item.external_attr >> 16),
                    item.file_size,
                    partial(opened_zip.open, item),
                )
                for item in opened_zip.infolist()
            }
    else:
        with tarfile.open(packed) as opened_tar:
            yield {
                item.name: Entry(
                    item.isreg() or item.isdir(),
                    item.size,
                    partial(opened_tar.extractfile, item),
                )
                for item in opened_tar
            }


def _ordinary(mode: int) -> bool:
    """Whether Unix file bits (0 where a zip was made elsewhere) are of a file or a folder."""
    return stat.S_IFMT(mode) in (0, stat.S_IFREG, stat.S_IFDIR)
