"""ZeRO, stage 1: each process keeps the optimiser's state of its share of the parameters.

Source: Rajbhandari et al. 2020. The user's own optimiser steps on the share, so that its class, its
groups, its schedule and roll-back stay what they are; ``torch``'s ``ZeroRedundancyOptimizer`` would
be another optimiser that a schedule made for the first does not reach. The shares are the same as
there (a test compares).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from common.errors import InputError
from papers.betty.distribution.data_parallel import DataParallel, Trained


class ShardedOptimizer(DataParallel):
    """Steps the own share of parameters, then each process sends its share to the others."""

    def take(self, problem: Trained) -> None:
        """Give every process the first one's parameters and buffers.

        Raises:
            InputError: the problem's hypergradient reads the state of the whole optimiser.
        """
        if problem.unrolls:
            raise InputError(
                f"problem {problem.name!r}: its type needs the whole optimiser state, which"
                " strategy 'zero' spreads over processes; allowed: darts, sama, neumann, cg,"
                " reinforce, or strategy 'distributed'"
            )
        super().take(problem)

    @property
    def sharing_optimizers(self) -> Any:
        return dist.group.WORLD if self.world_size > 1 else None

    @contextmanager
    def updating(self, optimizer: torch.optim.Optimizer | None) -> Iterator[None]:
        """The optimiser sees its share alone; afterwards everyone has all new parameters."""
        if optimizer is None:
            yield
            return
        shares = self._shares(optimizer)
        own = {id(param) for param in shares[self.rank]}
        kept = [group["params"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["params"] = [param for param in group["params"] if id(param) in own]
        try:
            yield
        finally:
            for group, params in zip(optimizer.param_groups, kept, strict=True):
                group["params"] = params
        for process, share in enumerate(shares):
            if share:
                self.broadcast(share, process)

    def _shares(self, optimizer: torch.optim.Optimizer) -> list[list[Tensor]]:
        """Parameters of each process: group by group the largest first, to who has least."""
        shares: list[list[Tensor]] = [[] for _ in range(self.world_size)]
        sizes = [0] * self.world_size
        for group in optimizer.param_groups:
            for param in sorted(group["params"], key=torch.numel, reverse=True):
                least = sizes.index(min(sizes))
                shares[least].append(param)
                sizes[least] += param.numel()
        return shares

    def get_state(self, part: Any, problem: Trained) -> Any:
        """The whole state, collected from all processes where it is spread."""
        state = part.state_dict()
        if part is problem.optimizer and self.world_size > 1:
            # On the CPU: they are pickled, and a process may not reach another's GPU.
            own = {index: _on_cpu(entry) for index, entry in state["state"].items()}
            everyone: list[Any] = [None] * self.world_size
            dist.all_gather_object(everyone, own)
            entries = {index: entry for each in everyone for index, entry in each.items()}
            state["state"] = dict(sorted(entries.items()))
        return state

    def set_state(self, part: Any, state: Any, problem: Trained) -> None:
        super().set_state(part, state, problem)
        if part is problem.optimizer:
            own = {id(param) for param in self._shares(part)[self.rank]}
            for param in [param for param in part.state if id(param) not in own]:
                del part.state[param]


def _on_cpu(entry: dict[str, Any]) -> dict[str, Any]:
    return {k: v.cpu() if isinstance(v, Tensor) else v for k, v in entry.items()}
