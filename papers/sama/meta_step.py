"""SAMA in a training loop, of one process or several: ``sama.backward(meta_cost, base_cost)``."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common.errors import InputError
from papers.betty.distribution.data_parallel import DataParallel
from papers.betty.distribution.processes import Processes
from papers.betty.hypergradient.adaptation import Adaptation
from papers.betty.hypergradient.shards import is_sharded
from papers.betty.hypergradient.shift import Shift, describe_rounding
from papers.betty.hypergradient.vectors import Partial
from papers.betty.problems.replay import MicroBatch, Replay
from papers.sama.three_passes import Cost, adapted, check_depends, pull_back, shared_weights

log = logging.getLogger("sama")
#: Relative difference of two equal base costs, by the order in which a GPU sums.
SAME = 1e-3


class SAMA:
    """Hypergradients of a meta module's parameters through the optimum of a base module's.

    Of several processes each differentiates its own costs, and only the last of the three backward
    passes sends anything: the meta parameters' gradients, while it still computes others. ``.grad``
    is then the mean of the processes' own hypergradients. Wrap the meta module in
    ``DistributedDataParallel`` for that; the base module may be wrapped, too, or sharded by FSDP2.

    Both passes at moved weights have the same random numbers, and leave buffers as they were.

    Args:
        base, meta: modules; the costs call them.
        adaptation: watches the base optimiser; None is SAMA-NA.
        weights: of the base module, by default the adaptation's, or all that require a gradient.
        alpha: length of the shift; 1 in the published package, 0.3 in its continued pretraining.
        nudge: leave the base weights at ``w - eps v``, averaged over processes.

    Raises:
        InputError: the weights are not the adaptation's, or alpha is not positive.
    """

    def __init__(
        self,
        base: nn.Module,
        meta: nn.Module,
        adaptation: Adaptation | None = None,
        *,
        weights: Sequence[Tensor] | None = None,
        alpha: float = 1.0,
        nudge: bool = False,
    ) -> None:
        if not alpha > 0:
            raise InputError(f"SAMA: alpha={alpha!r}; allowed: above 0")
        self.base, self.meta, self.adaptation = base, meta, adaptation
        self.alpha, self.nudge = alpha, nudge
        self._sharding = [
            module for module in base.modules() if callable(getattr(module, "reshard", None))
        ]
        self._forget_gathered()
        self._base_params = list(base.parameters())
        if weights is None and adaptation is None:
            weights = [weight for weight in self._base_params if weight.requires_grad]
        self.weights = list(shared_weights(weights, adaptation))
        self._sharded = any(is_sharded(weight) for weight in self.weights)
        self._buffered = [m for part in (base, meta) for m in part.modules() if m._buffers]
        self._replay = Replay()
        self._first = True

    def backward(self, meta_cost: Cost, base_cost: Cost, *, keep: bool = False) -> Tensor:
        """Add the meta cost's total derivative to ``.grad`` of the meta parameters.

        Args:
            meta_cost, base_cost: as for :func:`hypergradient`.
            keep: the last base step's gradients, which are freed otherwise, for another call
                before the next step (of several meta batches, say).

        Returns:
            The meta cost, detached.

        Raises:
            InputError: as :func:`hypergradient` does, or the base cost is not the same twice.
        """
        params = [param for param in self.meta.parameters() if param.requires_grad]
        if not params:
            raise InputError(
                "SAMA: the meta module has no parameter that requires a gradient; allowed: one"
            )
        device = self.weights[0].device
        moment = MicroBatch(None, device)

        def replayed() -> Tensor:
            self._forget_gathered()
            with self._replay.again(moment, device, self._buffered):
                return base_cost()

        if self._first:
            self._check(replayed)
        with _unsynchronised(self.base, self.meta):
            value, vector, direct = pull_back(meta_cost, self.weights, params, self._gradients)
        vector = adapted(vector, self.adaptation)
        if self.adaptation is not None and not keep:
            self.adaptation.forget()
        with Shift(self.weights, vector, self.alpha, self.nudge) as shift:
            shift.to(1)
            with _unsynchronised(self.base, self.meta):
                above = torch.autograd.grad(replayed(), params, allow_unused=True)
            check_depends(list(above))
            self._check_synchronised(above)
            shift.to(-1)
            with _unsynchronised(self.base), _restored_on_error(params):
                _accumulate(params, direct, above, shift.eps)
                below = replayed()
                scale = torch.full_like(below, 0.5 / shift.eps)
                torch.autograd.backward(below, scale, inputs=params)
                self._average_unused(params, above)
        self._forget_gathered()
        if self.nudge and self._replicated:
            here = Processes(dist.get_rank(), dist.get_world_size(), device)
            DataParallel(here).average_values(self.weights)
        return value

    def _check_synchronised(self, above: Sequence[Tensor | None]) -> None:
        """Raise InputError if the last pass would leave a parameter of the processes' own."""
        if isinstance(self.meta, DistributedDataParallel) and not self.meta.find_unused_parameters:
            names = [name for name, param in self.meta.named_parameters() if param.requires_grad]
            for name, part in zip(names, above, strict=True):
                if part is None:
                    raise InputError(
                        f"SAMA: the base cost does not depend on the meta parameter {name}, which"
                        " DistributedDataParallel waits for; allowed: find_unused_parameters=True"
                    )

    @torch.no_grad()
    def _average_unused(
        self, params: Sequence[nn.Parameter], above: Sequence[Tensor | None]
    ) -> None:
        """Average ``.grad`` where no process's base cost depends on it, so that DDP does not."""
        if not isinstance(self.meta, DistributedDataParallel):
            return
        if not self.meta.find_unused_parameters:
            return
        group = self.meta.process_group
        has = [[part is not None for part in above], [p.grad is not None for p in params]]
        anywhere = torch.tensor(has, dtype=torch.int32, device=params[0].device)
        dist.all_reduce(anywhere, dist.ReduceOp.MAX, group=group)
        for param, used, given in zip(params, *anywhere.tolist(), strict=True):
            if given and not used:
                if param.grad is None:
                    param.grad = torch.zeros_like(param)
                dist.all_reduce(param.grad, group=group)
                param.grad.div_(dist.get_world_size(group))

    def _forget_gathered(self) -> None:
        """Let FSDP2 gather weights anew: they have moved, and not all passes go back to them."""
        for module in self._sharding:
            module.reshard()  # type: ignore[operator]

    @property
    def _replicated(self) -> bool:
        """Whether other processes hold the same weights."""
        wrapped = (isinstance(part, DistributedDataParallel) for part in (self.base, self.meta))
        return any(wrapped) and not self._sharded

    def _gradients(self, cost: Tensor, tensors: Sequence[Tensor]) -> Partial:
        """Gradients of the meta cost; ``.grad`` is as before."""
        if not self._sharded:
            return list(torch.autograd.grad(cost, tensors, allow_unused=True))
        # FSDP2 averages gradients outside of autograd's graph, into .grad of its shards.
        with _set_aside([*self._base_params, *self.meta.parameters()]):
            cost.backward()  # type: ignore[no-untyped-call]
            return [tensor.grad for tensor in tensors]

    @torch.no_grad()
    def _check(self, replayed: Cost) -> None:
        """Once: refuse a base cost that draws another batch when it is called again."""
        self._first = False
        resolution = max(torch.finfo(weight.dtype).eps for weight in self.weights)
        trouble = describe_rounding(self.weights, self.alpha, resolution)
        if trouble is not None:
            log.warning("SAMA: %s; allowed: weights in fp32, or a larger alpha", trouble)
        first, second = float(replayed()), float(replayed())
        if not (math.isfinite(first) and math.isfinite(second)):
            raise InputError(
                f"SAMA: the base cost is {first:.6g} and, called again, {second:.6g}; allowed: a"
                " finite cost"
            )
        if not abs(first - second) <= SAME * abs(first):
            raise InputError(
                f"SAMA: the base cost is {first:.6g}, and {second:.6g} when it is called again at"
                " the same weights; allowed: one fixed batch, random numbers of torch's generators"
            )


@torch.no_grad()
def _accumulate(
    params: Sequence[nn.Parameter], direct: Partial, above: Sequence[Tensor | None], eps: float
) -> None:
    """``.grad += direct - above / (2 eps)``."""
    for param, own, moved in zip(params, direct, above, strict=True):
        for part, factor in ((own, 1.0), (moved, -0.5 / eps)):
            if part is not None and param.grad is None:
                param.grad = part * factor
            elif part is not None and param.grad is not None:
                param.grad.add_(part, alpha=factor)


@contextmanager
def _set_aside(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Inside, ``.grad`` is empty; afterwards it is what it was."""
    earlier = [tensor.grad for tensor in tensors]
    for tensor in tensors:
        tensor.grad = None
    try:
        yield
    finally:
        for tensor, grad in zip(tensors, earlier, strict=True):
            tensor.grad = grad


@contextmanager
def _restored_on_error(tensors: Sequence[Tensor]) -> Iterator[None]:
    """``.grad`` is what it was if there is an exception inside; takes a copy of it."""
    earlier = [None if tensor.grad is None else tensor.grad.clone() for tensor in tensors]
    try:
        yield
    except BaseException:
        for tensor, grad in zip(tensors, earlier, strict=True):
            tensor.grad = grad
        raise


@contextmanager
def _unsynchronised(*modules: nn.Module) -> Iterator[None]:
    """Inside, backward passes through wrapped modules send nothing."""
    with ExitStack() as stack:
        for module in modules:
            if isinstance(module, DistributedDataParallel):
                stack.enter_context(module.no_sync())
        yield
