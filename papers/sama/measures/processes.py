"""Several processes of one run, started by it, in a process group of their own."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import multiprocessing

from common.errors import InputError
from common.training.process_group import leave_process_group

Found = TypeVar("Found")


def run_in_processes(
    function: Callable[..., Found], count: int, on_gpus: bool, *args: Any
) -> list[Found]:
    """What ``function(device, *args)`` returns in each of ``count`` processes, by rank.

    On CPUs they talk by gloo and are forks of this process, which spares them to load libraries;
    on GPUs they talk by nccl, one GPU each, and start afresh.

    Args:
        function: at a module's top level; returns plain values.

    Raises:
        InputError: there are fewer GPUs.
    """
    if on_gpus and torch.cuda.device_count() < count:
        raise InputError(
            f"processes {count}: {torch.cuda.device_count()} GPUs are visible; allowed: one for"
            " each process, or core.device=cpu"
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        multiprocessing.start_processes(  # type: ignore[attr-defined, no-untyped-call]
            _process,
            (function, count, on_gpus, folder, args),
            nprocs=count,
            start_method="spawn" if on_gpus else "fork",
        )
        left = [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(count)]
    # A run's record names the modules that this process has loaded.
    for module in sorted({module for each in left for module in each["modules"]}):
        import_module(module)
    return [each["found"] for each in left]


def _process(
    rank: int,
    function: Callable[..., Any],
    count: int,
    on_gpus: bool,
    folder: Path,
    args: tuple[Any, ...],
) -> None:
    device = torch.device("cuda", rank) if on_gpus else torch.device("cpu")
    if on_gpus:
        torch.cuda.set_device(device)
    torch.set_num_threads(1)
    dist.init_process_group(
        "nccl" if on_gpus else "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=count,
    )
    found = function(device, *args)
    modules = [name for name in sys.modules if name.split(".")[0] in ("common", "papers")]
    torch.save({"found": found, "modules": modules}, folder / f"{rank}.pt")
    leave_process_group()
