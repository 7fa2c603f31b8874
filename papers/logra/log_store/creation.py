"""Making a log store, or going on with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

from common.errors import InputError
from common.experiments.settings import validated
from papers.logra.curvature.layout import Layout

from .dtypes import DTYPES, Encoding
from .folder_lock import locked_folder
from .manifest import MANIFEST, DtypeName, Identity, Manifest
from .writer import LogWriter

#: Bytes of a chunk where its rows are not given: large enough for a disk to be fast, small enough
#: that a killed run loses little.
CHUNK_BYTES = 64 << 20


def create(
    folder: Path | str,
    layout: Layout,
    *,
    identity: Identity,
    dtype: DtypeName = "float32",
    rank: int = 0,
    ranks: int = 1,
    rows_per_chunk: int | None = None,
    resume: bool = False,
    memory_bytes: int = 4 * CHUNK_BYTES,
    token: str | None = None,
) -> LogWriter:
    """Make a store, or go on with one, and write rows of one rank.

    Args:
        folder: absent or empty, unless ``resume``.
        identity: what rows are computed with: digests of model and projections, the loss...
        rank, ranks: of the processes that write into ``folder``, each its own rows.
        rows_per_chunk: rows of a file; those of an unfinished one are lost with the process.
        resume: go on after the rows that are there, if any; the writer's ``rows`` says where.
        memory_bytes: of rows that wait for the disk, before ``append`` waits too.
        token: of the store to go on with, where it must be the one that a writer had before.

    Raises:
        InputError: rows are there and ``resume`` is not given, they are of another layout,
            identity, dtype or token, or another process writes them.
    """
    folder = Path(folder)
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r}; allowed: {', '.join(DTYPES)}")
    if not 0 <= rank < ranks:
        raise InputError(f"rank {rank}; allowed: 0 to {ranks - 1}")
    if rows_per_chunk is not None and rows_per_chunk < 1:
        raise InputError(f"rows_per_chunk {rows_per_chunk}; allowed: at least 1")
    wanted = {
        "layout": [tuple(block) for block in layout.blocks],
        "identity": identity,
        "dtype": dtype,
        "ranks": ranks,
    }
    if rows_per_chunk is not None:
        wanted["rows_per_chunk"] = rows_per_chunk
    if token is not None:
        wanted["token"] = token
    fallback = max(1, CHUNK_BYTES // Encoding(dtype, layout).row_bytes)
    made = {"rows_per_chunk": fallback, "token": uuid4().hex, **wanted}
    try:
        manifest = _shared_manifest(folder, made, wanted)
        return LogWriter(folder, manifest, rank, resume, memory_bytes)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror})") from error


def _shared_manifest(folder: Path, made: dict[str, Any], wanted: dict[str, Any]) -> Manifest:
    """The manifest that all ranks agree on: the first one writes it, the others compare."""
    folder.mkdir(parents=True, exist_ok=True)
    with locked_folder(folder):
        if not (folder / MANIFEST).exists():
            strange = sorted(path.name for path in folder.iterdir() if MANIFEST not in path.name)
            if strange:
                raise InputError(f"{folder}: holds {strange[0]}; allowed: an empty folder, or none")
            validated(Manifest, made, str(folder)).write(folder)
        manifest = Manifest.read(folder)
    manifest.require(wanted, folder)
    return manifest
