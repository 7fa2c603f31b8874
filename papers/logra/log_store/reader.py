"""Reading a log store: rows by their position, blocks ahead of time, columns of computed values."""

from __future__ import annotations

import hashlib
import logging
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from common.errors import InputError
from papers.logra.curvature.layout import Layout

from .chunks import check_size, file_crc32, read_ids, read_rows
from .columns import Column
from .creation import create
from .dtypes import Encoding
from .journal import Chunk, read_journal
from .manifest import MANIFEST, Identity, Manifest, chunk_path, journal_path


class Place(NamedTuple):
    """A chunk among all of the store's."""

    path: Path
    start: int
    chunk: Chunk


class LogStore:
    """Rows of a store, all ranks' one after another; it never writes but :meth:`put_column`.

    Attributes:
        folder: where it lies.
        layout: which columns belong to which layer.
        identity: what the rows were computed with.
        dtype: how numbers are kept.
        rows_per_chunk: blocks of so many rows are read without a copy.
        complete: whether every rank has closed its part.
    """

    def __init__(self, folder: Path | str, token: str | None = None) -> None:
        self.folder = Path(folder)
        self._manifest = Manifest.read(self.folder)
        if token is not None:
            self._manifest.require({"token": token}, self.folder)
        self._text = self._manifest.text.encode()
        self.layout: Layout = self._manifest.blocks
        self.identity: Identity = dict(self._manifest.identity)
        self.dtype, self.rows_per_chunk = self._manifest.dtype, self._manifest.rows_per_chunk
        self._encoding = Encoding(self.dtype, self.layout)
        self._places: list[Place] = []
        self._verified: set[Path] = set()
        self._length, self.complete = 0, True
        for rank in range(self._manifest.ranks):
            journal = read_journal(journal_path(self.folder, rank))
            self.complete &= journal.closed
            for number, chunk in enumerate(journal.chunks):
                path = chunk_path(self.folder, rank, number)
                check_size(path, chunk)
                self._places.append(Place(path, self._length, chunk))
                self._length += chunk.rows
        self._starts = [place.start for place in self._places]
        if not self.complete:
            logging.getLogger("log_store").warning("%s: its writers have not all closed it", self)

    @classmethod
    def open(cls, folder: Path | str, token: str | None = None) -> LogStore:
        """The store in ``folder``, for reading.

        Args:
            token: of the store that it must be, as its writer's manifest has it.

        Raises:
            InputError: no store, one of another version or token, or chunks that are missing or
                cut short.
        """
        return cls(folder, token)

    create = staticmethod(create)

    def __len__(self) -> int:
        return self._length

    def __str__(self) -> str:
        return f"{self.folder} ({len(self)} rows of {self.layout.width} numbers, {self.dtype})"

    def require(self, identity: Mapping[str, Any]) -> None:
        """Raise InputError where the rows were computed with something else."""
        self._manifest.require({"identity": dict(identity)}, self.folder)

    @cached_property
    def ids(self) -> list[str]:
        """What the writers called each row; may repeat."""
        self._require_in_place()
        found = []
        for place in self._places:
            found += read_ids(place.path, place.chunk)
        return found

    @cached_property
    def digest(self) -> str:
        """SHA-256 over what the store holds; any other row gives another one."""
        # Without the token, which says nothing of the rows.
        whole = hashlib.sha256(self._manifest.model_dump_json(exclude={"token"}).encode())
        for place in self._places:
            whole.update(f"{place.chunk.model_dump_json()}\n".encode())
        return whole.hexdigest()

    def rows(
        self,
        start: int,
        stop: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Gradients (stop - start, width). Rows of one chunk, in its dtype, are mapped, not copied.

        Raises:
            InputError: no such rows, their file was altered since it was written, or another store
                was made in this one's place.
        """
        self._require_in_place()
        if not 0 <= start <= stop <= len(self):
            raise InputError(f"{self.folder}: rows {start} to {stop}; allowed: 0 to {len(self)}")
        parts = []
        chunk = bisect_right(self._starts, start) - 1
        while start < stop:
            place = self._places[chunk]
            first, last = start - place.start, min(stop - place.start, place.chunk.rows)
            self._verify_once(place)
            shapes = self._encoding.shapes(place.chunk.rows)
            stored = read_rows(place.path, shapes, first, last)
            stored = {name: part.to(device) for name, part in stored.items()}
            parts.append(self._encoding.get(stored, dtype))
            start, chunk = place.start + last, chunk + 1
        if not parts:
            return torch.empty((0, self.layout.width), dtype=dtype, device=device)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def blocks(
        self,
        rows: int | None = None,
        *,
        start: int = 0,
        stop: int | None = None,
        prefetch: int = 2,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Iterator[tuple[int, Tensor]]:
        """(position of the first row, gradients) of each block, in order.

        Args:
            rows: of a block; None: as many as a chunk holds.
            start, stop: positions; a process that takes its share of the rows gives them.
            prefetch: blocks that a thread gets ready ahead; 0: none, and no thread.

        Raises:
            InputError: as :meth:`rows`.
        """
        rows = self.rows_per_chunk if rows is None else rows
        stop = len(self) if stop is None else stop
        if rows < 1 or prefetch < 0:
            raise InputError(f"blocks of {rows} rows, {prefetch} ahead; allowed: >= 1, >= 0")
        spans = [(first, min(first + rows, stop)) for first in range(start, stop, rows)]
        if not prefetch:
            for first, last in spans:
                yield first, self.rows(first, last, device=device, dtype=dtype)
            return
        ahead = deque[tuple[int, Future[Tensor]]]()
        with ThreadPoolExecutor(1, thread_name_prefix="log store") as thread:
            try:
                for first, last in spans:
                    work = thread.submit(self.rows, first, last, device=device, dtype=dtype)
                    ahead.append((first, work))
                    if len(ahead) > prefetch:
                        yield _done(ahead.popleft())
                while ahead:
                    yield _done(ahead.popleft())
            finally:
                thread.shutdown(cancel_futures=True)  # where the consumer stops early

    def column(self, name: str, parameters: Mapping[str, Any]) -> Tensor | None:
        """Values put under ``name`` for these rows and ``parameters``; None: there are none.

        Raises:
            InputError: its file was altered.
        """
        return self._column(name, parameters).read()

    def put_column(self, name: str, values: Tensor, parameters: Mapping[str, Any]) -> None:
        """Keep one value (or one tensor of them) for each row, for :meth:`column`.

        Args:
            parameters: what values depend on besides the rows: Hessian, damping...

        Raises:
            InputError: not one for each row, or the folder is read-only.
        """
        self._column(name, parameters).write(values)

    def _column(self, name: str, parameters: Mapping[str, Any]) -> Column:
        return Column(self.folder / "columns", name, parameters, self.digest, len(self))

    def verify(self) -> None:
        """Raise InputError where a chunk was altered since it was written."""
        for place in self._places:
            _verify(place)
            read_ids(place.path, place.chunk)

    def _require_in_place(self) -> None:
        """Raise InputError where the folder has another store by now.

        Its chunks have the names of this one's, which were verified once.
        """
        try:
            same = (self.folder / MANIFEST).read_bytes() == self._text
        except OSError:
            same = False
        if not same:  # to parse it takes longer than to read a block
            Manifest.read(self.folder).require({"token": self._manifest.token}, self.folder)

    def _verify_once(self, place: Place) -> None:
        if place.path not in self._verified:
            _verify(place)
            self._verified.add(place.path)


def _done(block: tuple[int, Future[Tensor]]) -> tuple[int, Tensor]:
    return block[0], block[1].result()


def _verify(place: Place) -> None:
    found = file_crc32(place.path)
    if found != place.chunk.crc32:
        raise InputError(
            f"{place.path}: altered since it was written: CRC-32 {found};"
            f" allowed: {place.chunk.crc32}"
        )


class Rows(Dataset[tuple[str, Tensor]]):
    """(id, gradient (width,)) of each row, for a DataLoader with any number of workers."""

    def __init__(self, store: LogStore, dtype: torch.dtype = torch.float32) -> None:
        self.store, self.dtype = store, dtype

    def __len__(self) -> int:
        return len(self.store)

    def __getitem__(self, position: int) -> tuple[str, Tensor]:
        if not 0 <= position < len(self):
            raise IndexError(position)
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: list[int]) -> list[tuple[str, Tensor]]:
        """Items of a batch: a DataLoader asks for it. Rows side by side are read in one piece."""
        found: list[tuple[str, Tensor]] = []
        for _, run in groupby(enumerate(positions), key=lambda item: item[1] - item[0]):
            side_by_side = [position for _, position in run]
            first, last = side_by_side[0], side_by_side[-1] + 1
            rows = self.store.rows(first, last, dtype=self.dtype)
            found += zip(self.store.ids[first:last], rows, strict=True)
        return found
