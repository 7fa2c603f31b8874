"""Running out of memory as one line that says what would fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from common.errors import InputError


@contextmanager
def told_when_memory_ends(what: str, allowed: str) -> Iterator[None]:
    """Raises InputError where the work inside gets no memory, on a GPU or on the host.

    Args:
        what: the work and its size, for the message.
        allowed: what to change.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_of_memory(error):
            raise
        reason = str(error).partition("\n")[0][:200]
        raise InputError(f"{what}: out of memory; allowed: {allowed} ({reason})") from None


def _is_of_memory(error: Exception) -> bool:
    # The host's allocator has no error of its own.
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or "can't allocate memory" in str(error)


def require_memory(needed: int, device: torch.device, what: str, allowed: str) -> None:
    """Raises InputError where fewer bytes are free, for the kernel kills who takes too many.

    Args:
        needed: bytes.
        device: where.
        what, allowed: as of :func:`told_when_memory_ends`.
    """
    free = free_bytes(device)
    if free is not None and needed > free:
        raise InputError(
            f"{what}: out of memory, {needed / 1e9:.3g} GB are needed and {free / 1e9:.3g} GB of "
            f"{device.type} memory are free; allowed: {allowed}"
        )


def free_bytes(device: torch.device) -> int | None:
    """What a program may still take; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    sizes = dict(line.split(":", 1) for line in lines)
    return int(sizes["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in sizes else None
