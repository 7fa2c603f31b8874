"""Data parallelism: every process holds all parameters and takes its own share of the batches.

All processes start from the first one's values and step along the same averaged gradients, in the
same bits, so parameters stay equal without being sent again. One process is the case without talk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from common.errors import InputError
from papers.betty.configs import Config
from papers.betty.distribution.processes import Processes
from papers.betty.hypergradient.vectors import Partial


class Trained(Protocol):
    """What is spread over processes: a problem's module, and what steps its parameters."""

    #: ``Any``, for a program may have modules and optimisers of its own kinds.
    module: Any
    optimizer: Any
    #: Whether an upper problem differentiates through its optimiser's steps.
    unrolls: bool

    @property
    def name(self) -> str:
        """Identifier in the program."""

    @property
    def config(self) -> Config:
        """How it is solved and differentiated."""

    @property
    def jacobian_types(self) -> Sequence[str]:
        """Methods by which upper problems differentiate its optimum."""

    def parameters(self) -> list[Tensor]:
        """All parameters."""

    def relist_parameters(self) -> None:
        """Take note that its module has other parameters."""


class DataParallel:
    """One all-reduce for each optimiser step of each problem, of its gradient.

    Hypergradients are computed by each process from its own batches and averaged with the direct
    gradient. That is the mean of the processes' hypergradients, not the hypergradient of the mean
    costs, which is made of products: :mod:`papers.betty` says in its README where the two agree.
    """

    def __init__(self, processes: Processes) -> None:
        self.rank, self.world_size, self.device = processes

    # When a program is put together.

    def take(self, problem: Trained) -> None:
        """Give every process the first one's parameters and buffers.

        Buffers go their own ways afterwards: what batch normalisation counts is the share's. Those
        of the first process are validated and saved.
        """
        self.broadcast([*problem.parameters(), *problem.module.buffers()])

    def share(self, loader: Iterable[Any], name: str) -> Iterable[Any]:
        """This process's share of the batches of problem ``name``."""
        if self.world_size == 1:
            return loader
        from papers.betty.distribution.data_shares import take_share  # not of one process

        return take_share(loader, self, name)

    # In a step.

    def gradients(self, loss: Tensor, tensors: Sequence[Tensor]) -> Partial:
        """Gradients of ``loss``; None where it does not depend on a tensor."""
        return list(torch.autograd.grad(loss, tensors, allow_unused=True))

    def average_grads(self, params: Sequence[Tensor]) -> None:
        """Average ``.grad`` over processes; it stays None where it is None in all of them."""
        if self.world_size > 1:
            means = self._means([param.grad for param in params], params)
            for param, mean in zip(params, means, strict=True):
                param.grad = mean

    def averaged(self, gradient: Partial, params: Sequence[Tensor]) -> Partial:
        """A recorded gradient with the value of the average and the derivatives of its own.

        Unrolled steps so lead all processes to the same weights, and the hypergradient is each
        process's own, as with the other methods.
        """
        if self.world_size == 1:
            return gradient
        means = self._means(gradient, params)
        return [
            mean if own is None or mean is None else _Valued.apply(own, mean)  # type: ignore[no-untyped-call]
            for own, mean in zip(gradient, means, strict=True)
        ]

    def average_values(self, tensors: Sequence[Tensor]) -> None:
        """Average tensors in place: weights that each process has nudged along its own vector."""
        if self.world_size > 1:
            with torch.no_grad():
                torch._foreach_copy_(list(tensors), self._average(tensors))

    @property
    def sharing_optimizers(self) -> Any:
        """Processes that each hold a share of every optimiser's state; None if all hold all."""
        return None

    def updating(self, optimizer: torch.optim.Optimizer | None) -> AbstractContextManager[None]:
        """Context of an optimiser step."""
        return nullcontext()

    def _means(self, grads: Sequence[Tensor | None], params: Sequence[Tensor]) -> Partial:
        values = [
            torch.zeros_like(param) if grad is None else grad
            for grad, param in zip(grads, params, strict=True)
        ]
        given = params[0].new_tensor([grad is not None for grad in grads])
        *means, givers = self._average([*values, given])
        if all(grad is not None for grad in grads):
            return list(means)
        return [mean if n else None for mean, n in zip(means, givers.tolist(), strict=True)]

    def _average(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Means over processes, by one all-reduce of one flat tensor; they are views of it."""
        flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        flat /= self.world_size
        dist.all_reduce(flat)
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        return [
            part.view(tensor.shape).to(tensor.dtype)
            for part, tensor in zip(parts, tensors, strict=True)
        ]

    # Beside the steps.

    def broadcast(self, tensors: Sequence[Tensor], source: int = 0) -> None:
        """Give every process the values that process ``source`` has."""
        if self.world_size == 1:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            alike = [tensor.detach() for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.reshape(-1) for tensor in alike]).to(self.device)
            dist.broadcast(flat, source)
            parts = torch.split(flat, [tensor.numel() for tensor in alike])
            for tensor, part in zip(alike, parts, strict=True):
                tensor.copy_(part.view(tensor.shape))

    def first_says(self, decision: bool) -> bool:
        """The first process's decision, in all of them."""
        verdict = torch.tensor([decision], device=self.device)
        self.broadcast([verdict])
        return bool(verdict)

    def gather(self, value: Any) -> list[Any]:
        """What each process has, in the order of their ranks; all must ask for it."""
        everyone = [value]
        if self.world_size > 1:
            everyone = [None] * self.world_size
            dist.all_gather_object(everyone, value)
        return everyone

    def pick_own(self, everyone: Sequence[Any], what: str) -> Any:
        """Inverse of :meth:`gather`. Raises InputError if there were other processes."""
        if len(everyone) != self.world_size:
            raise InputError(
                f"{what!r}: the state is of {len(everyone)} processes; allowed: as many, not"
                f" {self.world_size}"
            )
        return everyone[self.rank]

    @property
    def validates(self) -> bool:
        """Whether this process takes part in validation."""
        return self.rank == 0

    def get_state(self, part: Any, problem: Trained) -> Any:
        """State of a part of ``problem``, whole on the first process; all must ask for it."""
        return part.state_dict()

    def set_state(self, part: Any, state: Any, problem: Trained) -> None:
        """Inverse of :meth:`get_state`, from the whole state."""
        part.load_state_dict(state)


class _Valued(torch.autograd.Function):
    """The value of one tensor with the derivative of another."""

    @staticmethod
    def forward(_context: Any, _own: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(_context: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None
