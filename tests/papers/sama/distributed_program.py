"""SAMA in two processes, run by the tests: ``torchrun -m ... FOLDER``.

Base: regression of y (n, 2) on x (n, 3) by a network, every sample with a weight that is the
exponential of what the meta network says of x. Meta: regression on a second set. Each process
leaves what it found in ``FOLDER/<rank>.pt``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

from common.errors import InputError
from common.training.process_group import leave_process_group
from papers.sama import SAMA, Adaptation
from papers.sama.measures.timeline import Traffic

PROCESSES, ROWS, STEPS = 2, 6, 3
#: Clipping is active; the base batches' gradients are averaged before.
CLIP, RATE, ALPHA = 0.5, 0.05, 0.1
Batch = tuple[Tensor, Tensor]


def batch_of(rank: int, which: int) -> Batch:
    """x (ROWS, 3) and y (ROWS, 2) of a process, base (0) or meta (1)."""
    generator = torch.Generator().manual_seed(10 * rank + which)
    x = torch.randn(ROWS, 3, generator=generator, dtype=torch.float64)
    return x, torch.randn(ROWS, 2, generator=generator, dtype=torch.float64)


def network(seed: int) -> nn.Module:
    """A small network, the same in all processes."""
    torch.manual_seed(seed)
    outputs = 2 if seed == 0 else 1
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, outputs)).double()


def base_cost(base: nn.Module, meta: nn.Module, batch: Batch) -> Tensor:
    """Weighted squared error."""
    x, y = batch
    found: Tensor = (meta(x).exp() * (base(x) - y).square()).mean()
    return found


def meta_cost(base: nn.Module, meta: nn.Module, batch: Batch) -> Tensor:
    """Squared error and a direct term."""
    x, y = batch
    found: Tensor = (base(x) - y).square().mean() + 0.1 * meta(x).square().mean()
    return found


def grads_of(module: nn.Module) -> list[Tensor]:
    return [whole(p.grad).clone() for p in module.parameters() if p.grad is not None]


def whole(tensor: Any) -> Tensor:
    full: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full.detach()


def adamw(params: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, lr=RATE, betas=(0.8, 0.9), eps=1e-3)


class Trained:
    """A base network after some steps on batches of its process (or of all of ``joined``)."""

    def __init__(
        self,
        ranks: tuple[int, ...],
        wrap_base: Callable[[nn.Module], nn.Module] = lambda module: module,
        wrap_meta: Callable[[nn.Module], nn.Module] = lambda module: module,
        make: Callable[[Any], torch.optim.Optimizer] = adamw,
        adapt: bool = True,
        clip: bool = True,
        **options: Any,
    ) -> None:
        self.base, self.meta = wrap_base(network(0)), wrap_meta(network(1))
        self.optimizer = make(self.base.parameters())
        self.adaptation = Adaptation(self.optimizer) if adapt else None
        for _ in range(STEPS):
            self.optimizer.zero_grad()
            costs = [base_cost(self.base, self.meta, batch_of(rank, 0)) for rank in ranks]
            torch.stack(costs).mean().backward()  # type: ignore[no-untyped-call]
            if self.adaptation is not None and clip:
                self.adaptation.clip_grad_norm_(CLIP)
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.meta.zero_grad()
        self.sama = SAMA(self.base, self.meta, self.adaptation, alpha=ALPHA, **options)

    def meta_step(self, *ranks: int) -> list[Tensor]:
        """Gradients by the meta network, from the mean of costs on some processes' batches."""
        self.meta.zero_grad()

        def mean(cost: Callable[..., Tensor], which: int) -> Tensor:
            return torch.stack(
                [cost(self.base, self.meta, batch_of(rank, which)) for rank in ranks]
            ).mean()

        costs = (lambda: mean(meta_cost, 1)), (lambda: mean(base_cost, 0))
        self.sama.backward(*costs, keep=True)
        return grads_of(self.meta)


def data_parallel() -> Iterator[tuple[str, Any]]:
    """Facts of data parallelism, base and meta module wrapped."""
    rank = dist.get_rank()
    everyone = tuple(range(PROCESSES))
    trained = Trained((rank,), DistributedDataParallel, DistributedDataParallel)
    yield "own", trained.meta_step(rank)
    yield "equal", trained.meta_step(0)
    with Traffic() as traffic:
        trained.meta_step(rank)
    yield "traffic", traffic.found()
    yield "base grads", grads_of(trained.base)
    with Traffic() as traffic:
        for module in (trained.base, trained.meta):
            module.zero_grad()
        for cost, which in ((meta_cost, 1), (base_cost, 0), (base_cost, 0)):
            cost(trained.base, trained.meta, batch_of(rank, which)).backward()  # type: ignore[no-untyped-call]
    yield "naive traffic", traffic.found()
    # One process by itself, on its own batches, with the averaged base gradients.
    alone = Trained(everyone)
    yield "alone", [alone.meta_step(each) for each in everyone]
    nudged = Trained((rank,), DistributedDataParallel, DistributedDataParallel, nudge=True)
    with Traffic() as traffic:
        nudged.meta_step(rank)
    yield "nudge traffic", traffic.found()
    yield "nudged", [p.detach().clone() for p in nudged.base.parameters()]
    ends = []
    for each in everyone:
        single = Trained(everyone, nudge=True)
        single.meta_step(each)
        ends.append([p.detach().clone() for p in single.base.parameters()])
    yield "nudged alone", ends


def overlap() -> Iterator[tuple[str, Any]]:
    """Order of buckets sent and of gradients computed in the last pass."""
    rank, events = dist.get_rank(), list[str]()

    def sent(_, bucket):  # type: ignore[no-untyped-def]  # torch looks at annotations
        events.append("sent")
        work = dist.all_reduce(bucket.buffer().div_(PROCESSES), async_op=True)
        return work.get_future().then(lambda done: done.value()[0])  # type: ignore[union-attr]

    trained = Trained(
        (rank,),
        DistributedDataParallel,
        lambda module: DistributedDataParallel(module, bucket_cap_mb=1e-5),
        adapt=False,
    )
    for _ in range(2):  # buckets are ordered anew after the first pass
        trained.meta_step(rank)
    trained.meta.register_comm_hook(None, sent)
    first = trained.meta.module[0].bias  # type: ignore[union-attr, index]
    first.register_hook(lambda grad: events.append("computed"))
    trained.meta_step(rank)
    yield "events", events


def zero() -> Iterator[tuple[str, Any]]:
    """Facts of an optimiser whose state is spread over processes."""
    rank = dist.get_rank()

    def make(params: Any) -> torch.optim.Optimizer:
        return ZeroRedundancyOptimizer(
            params, torch.optim.AdamW, lr=RATE, betas=(0.8, 0.9), eps=1e-3
        )

    for name, maker in (("whole", adamw), ("spread", make)):
        trained = Trained((rank,), DistributedDataParallel, DistributedDataParallel, maker)
        assert trained.adaptation is not None
        trained.meta_step(rank)  # who has what is told once
        ones = [torch.ones_like(p) for p in trained.base.parameters()]
        with Traffic() as traffic:
            yield f"D {name}", trained.adaptation(ones)
        yield f"D {name} traffic", traffic.found()
        yield name, trained.meta_step(rank)
    own = trained.optimizer.optim.param_groups[0]["params"]  # type: ignore[attr-defined]
    yield "share", [tuple(p.shape) for p in own]


def fsdp() -> Iterator[tuple[str, Any]]:
    """Facts of sharded base weights."""
    rank, everyone = dist.get_rank(), tuple(range(PROCESSES))

    def shard(module: nn.Module) -> nn.Module:
        fully_shard(module)
        return module

    for name, options in (("restored", {}), ("nudged", {"nudge": True})):
        trained = Trained((rank,), shard, DistributedDataParallel, **options)
        before = [whole(p).clone() for p in trained.base.parameters()]
        yield name, trained.meta_step(rank)
        single = Trained(everyone, **options)
        yield f"{name} alone", single.meta_step(*everyone)
        after = [whole(p).clone() for p in trained.base.parameters()]
        yield f"{name} moved", [a - b for a, b in zip(after, before, strict=True)]
        yield f"{name} weights", after
        yield f"{name} weights alone", [whole(p).clone() for p in single.base.parameters()]
        yield f"{name} base grads", grads_of(trained.base)
    shards = [p.to_local() for p in trained.base.parameters()]  # type: ignore[attr-defined]
    yield "shards", [tuple(each.shape) for each in shards]
    assert trained.adaptation is not None
    yield "D", [tuple(part.shape) for part in trained.adaptation(shards)]


def unused() -> Iterator[tuple[str, Any]]:
    """A meta parameter that the meta cost alone reads."""
    rank = dist.get_rank()

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.own = network(1), nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, x: Tensor, direct: bool = False) -> Tensor:
            found: Tensor = self.shared(x)
            return found + self.own * x.sum() if direct else found

    (x, y), base = batch_of(rank, 0), network(0)
    for name, options in (("found", {"find_unused_parameters": True}), ("refused", {})):
        meta = DistributedDataParallel(Two(), **options)  # type: ignore[arg-type]
        sama = SAMA(base, meta, alpha=ALPHA)

        def direct(meta: nn.Module = meta) -> Tensor:
            found: Tensor = (base(x) - y).square().mean() + meta(x, direct=True).mean()
            return found

        def weighted(meta: nn.Module = meta) -> Tensor:
            return base_cost(base, meta, (x, y))

        try:
            sama.backward(direct, weighted)
            yield name, grads_of(meta)
        except InputError as error:
            yield name, str(error)
    sums = [batch_of(each, 0)[0].sum() for each in range(PROCESSES)]
    yield "wanted", torch.stack(sums).mean()


def main(folder: Path) -> None:
    """Run all parts."""
    dist.init_process_group("gloo")
    found = {part.__name__: dict(part()) for part in (data_parallel, overlap, zero, fsdp, unused)}
    torch.save(found, folder / f"{dist.get_rank()}.pt")
    leave_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
