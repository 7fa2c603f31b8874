"""Which process of how many this is, and where it computes."""

from __future__ import annotations

import atexit
import os
from typing import Final, NamedTuple

import torch
import torch.distributed as dist

from common.errors import InputError

#: Strategies of one process.
ALONE: Final = ("default", "cpu", "gpu")
SEVERAL: Final = "distributed, zero, fsdp, accelerate"


class Processes(NamedTuple):
    """This process, ``rank``, of ``world_size``."""

    rank: int
    world_size: int
    device: torch.device


def joined(strategy: str, backend: str = "") -> Processes:
    """Join the process group that ``strategy`` asks for, or the one that is there already.

    A group that is made here lives as long as the process: a state is taken, and other engines run,
    after the first one's end.

    Raises:
        InputError: several processes for a strategy of one, none for one of several, a GPU that is
            not there, or a backend that cannot serve.
    """
    cuda = torch.cuda.is_available() and strategy != "cpu"
    if strategy in ALONE:
        started = _started()
        if started > 1:
            # They would train the same program side by side and overwrite each other's results.
            raise InputError(
                f"strategy {strategy!r}: {started} processes were started; allowed: {SEVERAL}, or"
                " one process"
            )
        if strategy == "gpu" and not cuda:
            raise InputError("strategy 'gpu': no GPU is visible; allowed here: default, cpu")
        return Processes(0, 1, torch.device("cuda" if cuda else "cpu"))
    ours = not dist.is_initialized()
    processes = (
        _with_accelerate() if strategy == "accelerate" else _with_torchrun(strategy, backend, cuda)
    )
    if ours and dist.is_initialized():
        from common.training.process_group import leave_process_group  # with it comes accelerate

        atexit.register(leave_process_group)
    return processes


def _started() -> int:
    """Processes of the group, or that torchrun will have in it."""
    if dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1


def _with_torchrun(strategy: str, backend: str, cuda: bool) -> Processes:
    if not dist.is_initialized():
        if "RANK" not in os.environ:
            raise InputError(
                f"strategy {strategy!r}: start the program with torchrun; allowed without it:"
                f" {', '.join(ALONE)}"
            )
        fit = ("nccl", "gloo") if cuda else ("gloo",)
        if backend and backend not in fit:
            raise InputError(f"backend {backend!r}: allowed here: {', '.join(fit)}, or empty")
    device = torch.device("cpu")
    if cuda:
        local, there = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local >= there:
            raise InputError(
                f"torchrun started more than {local} processes on this machine; allowed: one for"
                f" each of its {there} GPUs"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group(backend or ("nccl" if cuda else "gloo"))
    return Processes(dist.get_rank(), dist.get_world_size(), device)


def _with_accelerate() -> Processes:
    """What accelerate says, the program's own ``Accelerator`` if it has one."""
    from accelerate import PartialState  # slow to import, and seldom used
    from accelerate.utils import parse_flag_from_env

    on_cpu = not torch.cuda.is_available() or bool(parse_flag_from_env("ACCELERATE_USE_CPU"))
    state = PartialState(cpu=on_cpu)
    kind, started = state.distributed_type.name, _started()
    if kind not in ("NO", "MULTI_CPU", "MULTI_GPU") or state.num_processes != started:
        raise InputError(
            f"strategy 'accelerate': {started} processes were started and accelerate has"
            f" {state.num_processes} of kind {kind}; allowed: all, of kind NO, MULTI_CPU, MULTI_GPU"
        )
    return Processes(state.process_index, state.num_processes, state.device)
