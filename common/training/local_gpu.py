"""Which of several local GPUs a process takes. Snakemake counts GPUs and assigns none."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from common.errors import InputError

#: Locks of all runs of this user on this machine, from any checkout.
LOCKS = Path(tempfile.gettempdir()) / f"paper-reproductions-gpus-{os.getuid()}"


def visible_gpus() -> int:
    """GPUs of this machine, counted without initialising CUDA."""
    import torch

    return torch.cuda.device_count()


@contextmanager
def claimed_gpu(count: int, locks: Path = LOCKS) -> Iterator[str]:
    """Hold one of ``count`` local GPUs and make it the only visible one.

    Call it before CUDA is initialised. Where ``CUDA_VISIBLE_DEVICES`` is set already (by SLURM,
    say), that stands. A process that dies frees its GPU.

    Raises:
        InputError: all are taken.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        yield given
        return
    locks.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        lock = FileLock(locks / f"gpu{index}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        try:
            os.environ["CUDA_VISIBLE_DEVICES"] = str(index)
            yield str(index)
            return
        finally:
            del os.environ["CUDA_VISIBLE_DEVICES"]
            lock.release()
    raise InputError(
        f"all {count} GPUs are taken; allowed: as many runs as `--resources gpu=N` says"
    )
