"""FSDP: parameters, gradients and optimiser state of every problem spread over the processes.

FSDP2 gathers a module's parameters for its forward pass and reduces their gradients when
``backward()`` has filled ``.grad``; ``autograd.grad`` by the shards finds no graph, and what is
reduced has no derivative of its own. So finite differences work, which need first derivatives
alone, and methods with Hessian products or recorded steps do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from common.errors import InputError
from common.training import sharding
from papers.betty.distribution.data_parallel import DataParallel, Trained
from papers.betty.distribution.processes import Processes
from papers.betty.hypergradient.vectors import Partial

#: Methods that differentiate no gradient.
FIRST_ORDER: Final = ("darts", "sama")


class ShardedParameters(DataParallel):
    """Every backward pass averages over processes, those within hypergradients too.

    Hence the result is that of one process on all batches together, not only the mean of the
    processes' hypergradients. Costs read parameters by calling problems, not directly.
    """

    def __init__(self, processes: Processes) -> None:
        super().__init__(processes)
        self._shards: list[Tensor] = []

    def take(self, problem: Trained) -> None:
        """Shard module and optimiser.

        Raises:
            InputError: a method other than a finite difference, fp16, or no optimiser.
        """
        for method in problem.jacobian_types:
            if method not in FIRST_ORDER:
                raise InputError(
                    f"problem {problem.name!r}: type {method!r} differentiates a gradient, which"
                    f" strategy 'fsdp' cannot; allowed: {', '.join(FIRST_ORDER)}"
                )
        if problem.config.precision == "fp16" or problem.optimizer is None:
            raise InputError(
                f"problem {problem.name!r}: strategy 'fsdp' needs an optimizer, and fp32 or bf16"
            )
        super().take(problem)
        sharding.shard(problem.module, problem.optimizer, self.device.type)
        # Otherwise what a pass has gathered may outlive a change of the shards.
        problem.module.set_reshard_after_forward(True)
        problem.relist_parameters()
        self._shards += problem.parameters()

    def gradients(self, loss: Tensor, tensors: Sequence[Tensor]) -> Partial:
        """Shards of the gradients averaged over processes; ``.grad`` is left as it was.

        Raises:
            InputError: a tensor is not sharded, as of a module that was set later.
        """
        if not all(isinstance(tensor, DTensor) for tensor in tensors):
            raise InputError("strategy 'fsdp': every module must be given before the engine")
        earlier = [shard.grad for shard in self._shards]
        for shard in self._shards:
            shard.grad = None
        torch.autograd.backward(loss)
        found = [tensor.grad for tensor in tensors]
        for shard, grad in zip(self._shards, earlier, strict=True):
            shard.grad = grad
        return found

    def average_grads(self, params: Sequence[Tensor]) -> None:
        """Nothing is left to do: they were averaged where they were computed."""

    def average_values(self, tensors: Sequence[Tensor]) -> None:
        """Nothing is left to do: the vector along which they moved is everyone's."""

    @property
    def validates(self) -> bool:
        """All processes do: a forward pass needs everyone's shards."""
        return True

    def get_state(self, part: Any, problem: Trained) -> Any:
        """Whole, on the first process; the shards of all are gathered."""
        return sharding.full_state(part, self._find_module(part, problem))

    def set_state(self, part: Any, state: Any, problem: Trained) -> None:
        sharding.set_full_state(part, state, self._find_module(part, problem))

    @staticmethod
    def _find_module(part: Any, problem: Trained) -> nn.Module | None:
        """What an optimiser needs to name its shards."""
        return problem.module if part is problem.optimizer else None
