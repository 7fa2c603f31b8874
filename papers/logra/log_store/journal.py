"""The journal of a writing process: when a row counts as written.

A chunk counts once its line stands in the journal, which happens after its bytes are on the disk.
Whatever else a killed process left, half a chunk or half a line, counts for nothing.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from pydantic import Field

from common.errors import InputError
from common.experiments.settings import Settings, validated


class Chunk(Settings):
    """A line of a journal: one file of rows."""

    rows: int = Field(gt=0)
    bytes: int = Field(gt=0)
    crc32: str = Field(pattern=r"^[0-9a-f]{8}$", description="of the whole file")
    ids_crc32: str = Field(pattern=r"^[0-9a-f]{8}$", description="of the ids alone")


class Journal(NamedTuple):
    """Chunks that one process has completed, in their order.

    Attributes:
        closed: whether it said that no row follows.
        end: bytes up to the end of the last chunk's line.
    """

    chunks: list[Chunk]
    closed: bool
    end: int

    @property
    def rows(self) -> int:
        """Rows in all of them."""
        return sum(chunk.rows for chunk in self.chunks)


CLOSED: Final = b'{"closed":true}\n'


def read_journal(path: Path) -> Journal:
    """The journal in ``path``; an absent one is empty. Raises InputError: altered."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Journal([], closed=False, end=0)
    # What follows the last line feed was cut short by a kill.
    lines = data[: data.rfind(b"\n") + 1].splitlines(keepends=True)
    closed = bool(lines) and lines[-1] == CLOSED
    if closed:
        lines.pop()
    return Journal(list(_chunks(lines, path)), closed, sum(map(len, lines)))


def _chunks(lines: list[bytes], path: Path) -> Iterator[Chunk]:
    for number, line in enumerate(lines, 1):
        where = f"{path}: line {number}"
        try:
            found = json.loads(line)
        except ValueError:
            raise InputError(f"{where}: not the record of a chunk; altered") from None
        yield validated(Chunk, found, where)


class JournalFile:
    """The journal in ``path``, held by this process alone.

    Args:
        resume: whether it may be there already; then what was left unfinished is cut off.

    Attributes:
        found: what it held.

    Raises:
        InputError: it is there and ``resume`` is false, or another process holds it.
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, resume: bool) -> None:
        path.parent.mkdir(exist_ok=True)
        how = os.O_RDWR | os.O_APPEND | os.O_CREAT | (0 if resume else os.O_EXCL)
        try:
            self._file = os.open(path, how, 0o644)
        except FileExistsError:
            raise InputError(
                f"{path.parent.parent}: holds rows of an earlier run;"
                " allowed: resume=True, or another folder"
            ) from None
        try:
            # The kernel frees the lock however its holder ends.
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for folder in (path.parent, path.parent.parent):
                sync(folder)
            self.found = read_journal(path)
            os.ftruncate(self._file, self.found.end)
        except BlockingIOError:
            os.close(self._file)
            raise InputError(f"{path}: another process writes it; allowed: one") from None
        except (InputError, OSError):
            os.close(self._file)
            raise

    def add(self, chunk: Chunk) -> None:
        """Note a chunk whose bytes are on the disk. Raises OSError."""
        self._note(chunk.model_dump_json().encode() + b"\n")

    def end(self) -> None:
        """Note that no chunk follows. Raises OSError."""
        self._note(CLOSED)

    def _note(self, line: bytes) -> None:
        if os.write(self._file, line) < len(line):
            raise OSError("the disk took half a line of the journal")
        os.fsync(self._file)

    def close(self) -> None:
        """Let go of it."""
        # A child process that was forked meanwhile holds the descriptor too, and with it the lock.
        fcntl.flock(self._file, fcntl.LOCK_UN)
        os.close(self._file)


def sync(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
