"""Appending rows to a log store while the next ones are computed."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from safetensors import SafetensorError
from torch import Tensor

from common.errors import InputError

from .chunks import check_size, read_ids, write_chunk
from .dtypes import Encoding
from .journal import JournalFile
from .manifest import Manifest, chunk_path, journal_path


class Filled(NamedTuple):
    """Rows on their way to the disk, in memory that is used again."""

    memory: dict[str, Tensor]
    ids: list[str]


class LogWriter:
    """Appends rows to one rank's part of a log store; use it as a context manager.

    ``append`` copies rows into the chunk in memory; a thread writes full chunks. At most
    ``memory_bytes`` (at least two chunks) wait for the disk; then ``append`` waits too. When the
    block ends by an exception, the chunk that was not full is dropped, so a run that resumes
    writes the same files as one that was never interrupted.

    Args:
        folder: of a store that :func:`.creation.create` made.
        rank: its part of it.
        memory_bytes: for all chunks in memory.

    Attributes:
        rows: rows that this rank has appended, those of earlier processes among them.
        kept: rows that stay whatever happens to this process.

    Raises:
        InputError: another process writes this part, or a chunk of it is gone.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, rank: int, resume: bool, memory_bytes: int
    ) -> None:
        self.folder, self.manifest, self.rank = folder, manifest, rank
        self._encoding = Encoding(manifest.dtype, manifest.blocks)
        self._journal = JournalFile(journal_path(folder, rank), resume)
        try:
            self._take_up()
        except InputError:
            self._journal.close()
            raise
        self.kept = self.rows = self._journal.found.rows
        self._chunks = len(self._journal.found.chunks)
        chunk_bytes = manifest.rows_per_chunk * self._encoding.row_bytes
        self._unused = max(2, memory_bytes // chunk_bytes)  # chunks that may yet be allocated
        self._free = queue.SimpleQueue[dict[str, Tensor]]()
        self._full = queue.SimpleQueue[Filled | None]()
        self._filling: Filled | None = None
        self._failure: BaseException | None = None
        self._closed = False
        # A daemon: a program that ends without closing shall end.
        self._thread = threading.Thread(target=self._write_all, name="log store", daemon=True)
        self._thread.start()

    @cached_property
    def found_ids(self) -> list[str]:
        """Ids of the rows that were there when this process began. Raises InputError: altered."""
        found = []
        for number, chunk in enumerate(self._journal.found.chunks):
            found += read_ids(chunk_path(self.folder, self.rank, number), chunk)
        return found

    def append(self, ids: Sequence[str], gradients: Tensor) -> None:
        """Add rows; the caller may change or free what it gave as soon as this returns.

        Args:
            ids: (n,) what the caller calls each row; may repeat.
            gradients: (n, width), on any device.

        Raises:
            InputError: ids and rows differ in number, a row that cannot be kept (none of them is
                added then), or a chunk before could not be written: the cause stands behind it.
        """
        self._stop_on_failure()
        if self._closed:
            raise InputError(f"{self.folder}: is closed; allowed: to open it with resume=True")
        gradients = gradients.detach()
        self._encoding.check(gradients)
        names = [] if isinstance(ids, str) else list(ids)
        if len(names) != len(gradients) or not all(isinstance(name, str) for name in names):
            raise InputError(
                f"{self.folder}: ids {_short(ids)} for {len(gradients)} rows;"
                " allowed: one string for each"
            )
        start = 0
        while start < len(names):
            if self._filling is None:
                self._filling = Filled(self._memory(), [])
            filled = len(self._filling.ids)
            stop = min(len(names), start + self.manifest.rows_per_chunk - filled)
            self._encoding.put(self._filling.memory, filled, gradients[start:stop])
            self._filling.ids.extend(names[start:stop])
            self.rows += stop - start
            start = stop
            if len(self._filling.ids) == self.manifest.rows_per_chunk:
                self._hand_over()

    def close(self) -> None:
        """Write what is left, and note that the part is complete.

        Raises:
            InputError: a chunk could not be written.
        """
        self._end(complete=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end(complete=error is None)

    def _end(self, complete: bool) -> None:
        if self._closed:
            return
        self._closed = True
        if complete and self._filling is not None:
            self._hand_over()
        self._full.put(None)
        self._thread.join()
        try:
            if complete and self._failure is None:
                self._journal.end()
        except OSError as error:
            self._failure = error
        finally:
            self._journal.close()
        if complete:
            self._stop_on_failure()

    def _memory(self) -> dict[str, Tensor]:
        if self._free.empty() and self._unused:
            self._unused -= 1
            return self._encoding.empty(self.manifest.rows_per_chunk)
        return self._free.get()

    def _hand_over(self) -> None:
        assert self._filling is not None
        self._full.put(self._filling)
        self._filling = None

    def _write_all(self) -> None:
        while (filled := self._full.get()) is not None:
            if self._failure is None:
                try:
                    self._write(filled)
                except BaseException as error:
                    self._failure = error
            self._free.put(filled.memory)  # also after a failure: append may wait for it

    def _write(self, filled: Filled) -> None:
        rows = len(filled.ids)
        path = chunk_path(self.folder, self.rank, self._chunks)
        part = {name: tensor[:rows] for name, tensor in filled.memory.items()}
        chunk = write_chunk(path, part, filled.ids)
        self._journal.add(chunk)
        self._chunks += 1
        self.kept += rows

    def _stop_on_failure(self) -> None:
        if isinstance(self._failure, OSError | SafetensorError):
            raise InputError(
                f"{self.folder}: cannot be written ({self._failure}); {self.kept} rows of rank"
                f" {self.rank} are kept; resume=True goes on after them"
            ) from self._failure
        if self._failure is not None:
            raise self._failure

    def _take_up(self) -> None:
        chunks = self._journal.found.chunks
        for number, chunk in enumerate(chunks):
            check_size(chunk_path(self.folder, self.rank, number), chunk)
        # What a process that was killed had begun; safetensors writes to .tmp... and renames it.
        begun = chunk_path(self.folder, self.rank, len(chunks))
        for path in (begun, *begun.parent.glob(".tmp*")):
            path.unlink(missing_ok=True)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
