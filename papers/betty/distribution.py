"""Devices and processes of a program: where tensors live, and one average of gradients a step."""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from common.errors import InputError
from papers.betty.configs import EngineConfig


class Distribution:
    """The strategy of an engine.

    Raises:
        InputError: a strategy for several processes without torchrun, or ``gpu`` without one.
    """

    def __init__(self, config: EngineConfig) -> None:
        strategy = config.strategy
        several = strategy not in ("default", "cpu", "gpu")
        if strategy in ("zero", "fsdp", "accelerate"):
            raise InputError(f"strategy {strategy!r}: not built yet; allowed: distributed, default")
        if several and "RANK" not in os.environ:
            raise InputError(f"strategy {strategy!r}: start the program with torchrun")
        cuda = torch.cuda.is_available() and strategy != "cpu"
        if strategy == "gpu" and not cuda:
            raise InputError("strategy 'gpu': no GPU is visible; allowed here: default, cpu")
        self.rank, self.world_size = 0, 1
        self.device = torch.device("cuda" if cuda else "cpu")
        if several:
            dist.init_process_group(config.backend or ("nccl" if cuda else "gloo"))
            self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
            if cuda:
                local = int(os.environ.get("LOCAL_RANK", "0"))
                torch.cuda.set_device(local)
                self.device = torch.device("cuda", local)

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Give every process the first one's values."""
        if self.world_size > 1:
            with torch.no_grad():
                for tensor in tensors:
                    dist.broadcast(tensor.detach(), 0)

    def average_grads(self, params: Sequence[Tensor]) -> None:
        """Average gradients over processes: one call a step, however they were made up."""
        if self.world_size == 1:
            return
        grads = [p.grad for p in params if p.grad is not None]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        dist.all_reduce(flat)
        flat /= self.world_size
        for grad, part in zip(grads, torch.split(flat, [g.numel() for g in grads]), strict=True):
            grad.copy_(part.view_as(grad))

    def close(self) -> None:
        """Leave the process group."""
        if self.world_size > 1 and dist.is_initialized():
            dist.destroy_process_group()
