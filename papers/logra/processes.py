"""Which of the processes of ``torch.distributed`` this one is, if there are others."""

from __future__ import annotations

from torch import distributed


def in_any_process(flag: bool) -> bool:
    """Whether it is set in one of all processes."""
    if not distributed.is_initialized():
        return flag
    flags: list[bool] = [False] * distributed.get_world_size()
    distributed.all_gather_object(flags, flag)
    return any(flags)


def rank() -> int:
    """The number of this process in ``torch.distributed``; 0 if it is alone."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def processes() -> int:
    """How many there are in ``torch.distributed``."""
    return distributed.get_world_size() if distributed.is_initialized() else 1
