"""The device of a run: the CPU, or a local GPU that no other run of this machine takes meanwhile.

Snakemake counts GPUs and assigns none.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from filelock import FileLock, Timeout

from common.errors import InputError
from common.runs.run import Run

if TYPE_CHECKING:
    import torch

Device = Literal["auto", "cpu", "cuda"]

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


@contextmanager
def claimed_device(name: Device, run: Run, asked: str = "device cuda") -> Iterator[torch.device]:
    """The device for a run's models, noted in the run; a GPU is held to the end.

    ``auto`` is a GPU where there is one. What the GPU's memory held at most goes into the record.

    Args:
        asked: the setting that asks for a GPU, as the message has it where there is none.

    Raises:
        InputError: ``cuda`` is asked for and there is none, or other runs hold all of them.
    """
    import torch

    from common.training.meters import peak_gpu_bytes

    if name == "cpu":
        yield torch.device("cpu")
        return
    with ExitStack() as claim:
        # The claim comes first: CUDA keeps to the GPUs that are visible when it is first asked.
        if visible_gpus() > 1:
            claim.enter_context(claimed_gpu(visible_gpus()))
        if torch.cuda.is_available():
            device = torch.device("cuda")
            run.device = torch.cuda.get_device_name()
            run.measure_gpu = lambda: peak_gpu_bytes(device)
            yield device
            return
    if name == "cuda":
        raise InputError(f"{asked}: there is no GPU here")
    yield torch.device("cpu")
