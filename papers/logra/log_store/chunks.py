"""One chunk: a safetensors file of rows with their ids."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.errors import InputError

from .journal import Chunk, sync

SAFETENSORS_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int8: "I8",
}


def write_chunk(path: Path, rows: Mapping[str, Tensor], ids: Sequence[str]) -> Chunk:
    """Write a chunk and wait until the disk has it.

    Ids are UTF-8, one after another, with the place where each begins: a table of ids is no
    larger than its text, and a reader need not parse it to get at the rows.

    Raises:
        OSError: the disk refuses it; nothing of it stays.
    """
    texts = [identity.encode("utf8", "surrogatepass") for identity in ids]
    places = np.array([0, *accumulate(map(len, texts))], dtype=np.int64)
    text = np.frombuffer(bytearray(b"".join(texts)), dtype=np.uint8)
    tensors = {
        **rows,
        "id_places": torch.from_numpy(places),
        "id_text": torch.from_numpy(text),
    }
    try:
        save_file(tensors, path)
        sync(path)
    except (OSError, SafetensorError):
        path.unlink(missing_ok=True)
        raise
    sync(path.parent)
    return Chunk(
        rows=len(ids),
        bytes=path.stat().st_size,
        crc32=file_crc32(path),
        ids_crc32=_crc32(places, text),
    )


def read_rows(
    path: Path, shapes: Mapping[str, tuple[tuple[int, int], torch.dtype]], start: int, stop: int
) -> dict[str, Tensor]:
    """Rows ``start`` to ``stop`` of a chunk, mapped from its file: read when they are used.

    Args:
        shapes: of the tensors of the whole chunk.

    Raises:
        InputError: they are not what the file holds.
    """
    found = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name, (shape, dtype) in shapes.items():
                part = file.get_slice(name)
                held = (tuple(part.get_shape()), part.get_dtype())
                if held != (shape, SAFETENSORS_DTYPES[dtype]):
                    raise InputError(f"{path}: {name} {held}; allowed: {shape} of {dtype}")
                found[name] = part[start:stop]
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: {error}; allowed: a chunk of a log store") from error
    return found


def read_ids(path: Path, chunk: Chunk) -> list[str]:
    """Ids of a chunk. Raises InputError: they are more or fewer than its rows, or altered."""
    try:
        with safe_open(path, framework="numpy") as file:
            places, text = file.get_tensor("id_places"), file.get_tensor("id_text")
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path}: {error}; allowed: a chunk of a log store") from error
    if len(places) != chunk.rows + 1:
        raise InputError(f"{path}: {len(places) - 1} ids; allowed: {chunk.rows}, one for a row")
    if _crc32(places, text) != chunk.ids_crc32:
        raise InputError(f"{path}: its ids were altered; allowed: as they were written")
    joined, ends = text.tobytes(), places.tolist()
    return [joined[start:end].decode("utf8", "surrogatepass") for start, end in pairwise(ends)]


def _crc32(places: NDArray[np.int64], text: NDArray[np.uint8]) -> str:
    return f"{zlib.crc32(text.tobytes(), zlib.crc32(places.tobytes())):08x}"


def check_size(path: Path, chunk: Chunk) -> None:
    """Raise InputError where a chunk's file is missing or of another size."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise InputError(f"{path}: is missing; the journal names it") from None
    if size != chunk.bytes:
        raise InputError(f"{path}: {size} bytes; allowed: {chunk.bytes}, as the journal says")


def file_crc32(path: Path) -> str:
    """CRC-32 of a file's bytes, in hex: several times as fast as SHA-256, and damage shows."""
    crc, buffer = 0, bytearray(1 << 20)
    with path.open("rb", buffering=0) as stream:
        while size := stream.readinto(buffer):
            crc = zlib.crc32(memoryview(buffer)[:size], crc)
    return f"{crc:08x}"
