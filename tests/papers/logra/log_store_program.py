"""Processes that write a log store and come to harm, for the tests of what they leave."""

from __future__ import annotations

import os
import resource
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.errors import InputError
from papers.logra.curvature.layout import Block, Layout
from papers.logra.log_store import LogStore, LogWriter

LAYOUT = Layout([Block("first", 3, 4), Block("second", 2, 5)])
#: Rows of a chunk, of a batch (no divisor of it), and of the whole run.
PER_CHUNK, BATCH, ROWS = 7, 5, 250


def rows_of(count: int) -> Tensor:
    """(count, width): of any two counts, one is the beginning of the other."""
    return torch.randn(ROWS, LAYOUT.width, generator=torch.Generator().manual_seed(0))[:count]


def ids_of(count: int) -> list[str]:
    return [f"sample {position} é" for position in range(count)]


def opened(folder: Path, **options: Any) -> LogWriter:
    return LogStore.create(
        folder, LAYOUT, identity={"model": "a"}, rows_per_chunk=PER_CHUNK, resume=True, **options
    )


def append(writer: LogWriter, stop: int) -> None:
    """Append what is missing of the first ``stop`` rows, in batches."""
    rows, ids = rows_of(stop), ids_of(stop)
    for start in range(writer.rows, stop, BATCH):
        part = slice(start, min(start + BATCH, stop))
        writer.append(ids[part], rows[part])


def write(folder: Path, began: Connection) -> None:
    """Write the whole run, or what is missing of it."""
    with opened(folder) as writer:
        began.send(writer.rows)
        append(writer, ROWS)


def hold(folder: Path, began: Connection) -> None:
    """Open the store for writing, and keep it open."""
    with opened(folder):
        began.send(True)
        time.sleep(60)


def write_until_full(folder: Path, result: Connection) -> None:
    """Write three chunks; then the disk takes no file of more than 100 bytes."""
    message = ""
    try:
        with opened(folder) as writer:
            append(writer, 3 * PER_CHUNK)
            while writer.kept < 3 * PER_CHUNK:
                time.sleep(0.001)
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
            append(writer, ROWS)
    except InputError as error:
        message = str(error)
    result.send(message)


def read_without_rights(folder: Path, result: Connection) -> None:
    """Read the store as a user who may write nothing there."""
    os.chdir(folder)  # that user need not be let into the folders above
    if os.geteuid() == 0:
        os.setuid(65534)
    store = LogStore.open(Path())
    store.verify()
    refused = ""
    try:
        store.put_column("column", torch.zeros(len(store)), {})
    except InputError as error:
        refused = str(error)
    try:
        Path("anything").touch()
        refused = "the folder is not read-only"
    except PermissionError:
        pass
    result.send(
        (torch.equal(torch.cat([part for _, part in store.blocks()]), rows_of(20)), refused)
    )
