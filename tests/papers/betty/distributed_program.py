"""Bilevel programs in two processes, run by the tests: ``torchrun -m ... FOLDER``.

Lower: regression of y (n, 2) on x (n, 3) with a weight for every sample and output, which is the
exponential of what the upper problem's module says of x. Upper: regression on a second set. Each
process leaves what it found in ``FOLDER/<rank>.pt``.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from common.errors import InputError
from papers.betty import Config, Engine, EngineConfig, ImplicitProblem, IterativeProblem, Problem

ROWS, BATCH, UNROLL, LOWER_RATE, UPPER_RATE = 32, 4, 3, 0.05, 0.1
#: Engine iterations: three steps of the upper problem.
ITERATIONS = 3 * UNROLL
BILEVEL: dict[str, Any] = {"u2l": {"upper": ["lower"]}, "l2u": {"lower": ["upper"]}}
CONFIGS: dict[str, dict[str, Any]] = {
    "darts": {"type": "darts"},
    "neumann": {"type": "neumann", "neumann_iterations": 2, "neumann_alpha": 0.3},
    "cg": {"type": "cg", "cg_iterations": 6, "cg_damping": 0.5},
    "itd": {"type": "itd"},
}
#: Methods, and what must be the same in all processes for them to equal one process.
EXACT = [("darts", "upper"), ("neumann", "lower"), ("itd", "lower")]
#: Programs of strategy "fsdp": of the lower problem, of the engine.
SHARDABLE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "clipped": ({"unroll_steps": UNROLL, "gradient_clipping": 1.0}, {}),
    "rolled back": ({"unroll_steps": UNROLL}, {"roll_back": True}),
    "nudged": ({"type": "sama", "sama_multitask": True, "unroll_steps": UNROLL}, {}),
}
DOUBLE = {"dtype": torch.float64}


def samples(name: str) -> tuple[Tensor, Tensor]:
    """x (ROWS, 3) and y (ROWS, 2) of a problem."""
    generator = torch.Generator().manual_seed({"lower": 5, "upper": 6}[name])
    x = torch.randn(ROWS, 3, generator=generator, **DOUBLE)
    return x, x @ torch.randn(3, 2, generator=generator, **DOUBLE) + 1


def first_batch(name: str) -> tuple[Tensor, ...]:
    """The first rows of a problem's samples."""
    return tuple(rows[:BATCH] for rows in samples(name))


def lower_cost(w: Callable[..., Tensor], u: Callable[..., Tensor], batch: Any) -> Tensor:
    """Weighted squared error, a mean over the batch."""
    x, y = batch
    cost: Tensor = (u(x).exp() * (w(x) - y).square()).mean()
    return cost


def upper_cost(w: Callable[..., Tensor], u: Callable[..., Tensor], batch: Any) -> Tensor:
    """Squared error and a direct term, a mean over the batch."""
    x, y = batch
    cost: Tensor = (w(x) - y).square().mean() + 0.1 * u(x).square().mean()
    return cost


def module(seed: int) -> nn.Module:
    """A linear map from 3 to 2, different in every process: the first one's is to be taken."""
    torch.manual_seed(seed + 10 * (dist.get_rank() if dist.is_initialized() else 0))
    return nn.Linear(3, 2, bias=False, **DOUBLE)


def program(
    config: Config,
    optimizer: Callable[..., torch.optim.Optimizer] | None = None,
    batch: int = BATCH,
    fixed: str = "",
    modules: tuple[nn.Module, nn.Module] | None = None,
    kind: type[Engine] = Engine,
    **settings: Any,
) -> Engine:
    """The bilevel program on plain loaders with batches in the data's order.

    ``fixed`` names a problem all of whose batches are its first, in all processes.
    """
    base: type[Problem] = IterativeProblem if config.type == "itd" else ImplicitProblem

    class Lower(base):  # type: ignore[misc, valid-type]
        def training_step(self, batch: Any) -> Tensor:
            return lower_cost(self, self.upper, batch)

    class Upper(ImplicitProblem):
        def training_step(self, batch: Any) -> Tensor:
            return upper_cost(self.lower, self, batch)  # type: ignore[attr-defined]

    problems = []
    made = modules or (module(0), module(1))
    for name, cls, net, rate in zip(
        ("lower", "upper"), (Lower, Upper), made, (LOWER_RATE, UPPER_RATE), strict=True
    ):
        loader = DataLoader(TensorDataset(*samples(name)), batch)
        step = (optimizer or torch.optim.SGD)(net.parameters(), lr=rate)
        own = config if name == "lower" else None
        problems.append(cls(name, own, net, step, train_data_loader=loader))
    engine = kind(problems, EngineConfig(**({"train_iters": ITERATIONS} | settings)), BILEVEL)
    if fixed:
        engine.problem(fixed).get_batch = lambda: first_batch(fixed)  # type: ignore[method-assign]
    return engine


def weights(engine: Engine) -> dict[str, Tensor]:
    """Parameters of all problems, whole."""
    found = {}
    for problem in engine.problems:
        for name, param in problem.module.named_parameters():
            whole = param.full_tensor() if hasattr(param, "full_tensor") else param
            found[f"{problem.name}.{name}"] = whole.detach().clone()
    return found


def ran(engine: Engine) -> dict[str, Tensor]:
    """Its parameters after a run."""
    engine.run()
    return weights(engine)


class Counted:
    """Counts optimiser steps of problems, and all-reduces inside and outside of hypergradients."""

    def __init__(self, engine: Engine) -> None:
        self.counts: Counter[str] = Counter()
        self._all_reduce = dist.all_reduce
        for problem in engine.problems:
            problem.param_callback = lambda: self.counts.update(["steps"])  # type: ignore[method-assign]
            problem.backward = self._inside(problem.backward)  # type: ignore[method-assign]
        self._where = "outside"

    def _inside(self, backward: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
        def watched(loss: Tensor) -> None:
            self._where = "inside"
            backward(loss)
            self._where = "outside"

        return watched

    def __enter__(self) -> Counter[str]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.counts[self._where] += 1
            return self._all_reduce(*args, **kwargs)

        dist.all_reduce = counted
        return self.counts

    def __exit__(self, *_: Any) -> None:
        dist.all_reduce = self._all_reduce


def data_parallel() -> Iterator[tuple[str, Any]]:
    """Facts of strategy "distributed"."""
    for name, config in CONFIGS.items():
        engine = program(Config(unroll_steps=UNROLL, **config), strategy="distributed")
        with Counted(engine) as counts:
            yield name, ran(engine)
        yield f"{name} counts", dict(counts)
    accumulating = Config(unroll_steps=UNROLL, gradient_accumulation=2)
    engine = program(
        accumulating, batch=BATCH // 2, train_iters=2 * ITERATIONS, strategy="distributed"
    )
    with Counted(engine) as counts:
        yield "accumulation", ran(engine)
    yield "accumulation counts", dict(counts)
    for name, fixed in EXACT:
        config = Config(unroll_steps=UNROLL, **CONFIGS[name])
        yield f"{name} {fixed}", ran(program(config, fixed=fixed, strategy="distributed"))
    nudging = Config(unroll_steps=UNROLL, darts_multitask=True)
    yield "nudge", ran(program(nudging, strategy="distributed"))


def start_and_data() -> Iterator[tuple[str, Any]]:
    """Facts of what the engine takes: buffers, loaders, early stopping, unused parameters."""
    rank = dist.get_rank()
    yield "start", weights(program(Config(), strategy="distributed"))

    class Partly(ImplicitProblem):
        """Uses its second parameter in the first process alone and its third in none."""

        def training_step(self, batch: Any) -> Tensor:
            a, b, _ = self.module
            return a.sum() * (rank + 1) + (b.sum() if rank == 0 else 0)

    net = nn.ParameterList(nn.Parameter(torch.ones(2)) for _ in range(3))
    net.register_buffer("seen", torch.tensor([rank + 5]))
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    engine = Engine(
        [Partly("partly", None, net, optimizer, train_data_loader=[()] * 4)],
        EngineConfig(train_iters=1, strategy="distributed"),
    )
    yield "buffer", net.seen.clone()
    shared = engine.distribution.share
    engine.partly.zero_grad = lambda: None  # type: ignore[attr-defined]
    engine.run()
    yield "grads", [param.grad for param in net]

    rows = TensorDataset(torch.arange(10))
    torch.manual_seed(rank)
    loaders = {
        "plain": DataLoader(rows, 2),
        "shuffled": DataLoader(rows, 2, shuffle=True, drop_last=True),
        "unbatched": DataLoader(rows, batch_size=None),
        "sampled": DataLoader(rows, 2, sampler=DistributedSampler(rows, shuffle=False)),
        "list": [torch.tensor([i]) for i in range(5)],
    }
    for name, loader in loaders.items():
        share = shared(shared(loader, name), name)
        for epoch in range(2):
            taken = [batch[0] if isinstance(batch, list | tuple) else batch for batch in share]
            yield f"{name} {epoch}", torch.cat([t.reshape(-1) for t in taken]).tolist()
        yield f"{name} length", len(share)
    try:
        shared([()], "small")
    except InputError as error:
        yield "one batch", str(error)

    class Validated(Engine):
        def validation(self) -> dict[str, float]:
            return {"loss": 1.0}

    stopping = program(
        Config(),
        kind=Validated,
        train_iters=50,
        valid_step=2,
        strategy="distributed",
        early_stopping=True,
        early_stopping_tolerance=3,
    )
    stopping.run()
    yield "stopped at", stopping.global_step


def zero() -> Iterator[tuple[str, Any]]:
    """Facts of strategy "zero": two equal layers, so that each process keeps one."""

    def layers() -> tuple[nn.Module, nn.Module]:
        torch.manual_seed(3)
        hidden = [nn.Linear(3, 3, **DOUBLE), nn.Linear(3, 2, **DOUBLE)]
        return nn.Sequential(*hidden), nn.Linear(3, 2, bias=False, **DOUBLE)

    def adam(params: Any, lr: float) -> torch.optim.Optimizer:
        first, *rest = params
        return torch.optim.AdamW([{"params": [first], "weight_decay": 0.1}, {"params": rest}], lr)

    def fresh(strategy: str, iterations: int = ITERATIONS, kind: Any = "darts") -> Engine:
        engine = program(
            Config(kind, unroll_steps=UNROLL, gradient_clipping=1.0),
            adam,
            modules=layers(),
            strategy=strategy,
            train_iters=iterations,
        )
        for problem in engine.problems:
            problem.set_scheduler(torch.optim.lr_scheduler.StepLR(problem.optimizer, 2, 0.5))
        return engine

    yield "distributed", ran(fresh("distributed"))
    engine = fresh("zero")
    yield "zero", ran(engine)
    params = engine.lower.parameters()  # type: ignore[attr-defined]
    state = engine.lower.optimizer.state  # type: ignore[attr-defined]
    yield "kept", [tuple(param.shape) for param in params if param in state]
    groups = [dict(group) for group in engine.lower.optimizer.param_groups]  # type: ignore[attr-defined]
    peer = ZeroRedundancyOptimizer(groups, torch.optim.AdamW, lr=LOWER_RATE)
    peers = {id(p) for group in peer.optim.param_groups for p in group["params"]}
    yield "kept by the peer", [tuple(p.shape) for p in params if id(p) in peers]

    half = fresh("zero", 2 * UNROLL)
    half.run()
    state = half.state_dict()
    yield "whole state", sorted(state["problems"]["lower"]["optimizer"]["state"])
    resumed = fresh("zero", ITERATIONS)
    resumed.load_state_dict(state)
    yield "resumed keeps", len(resumed.lower.optimizer.state)  # type: ignore[attr-defined]
    yield "resumed", ran(resumed)
    for strategy in ("distributed", "zero"):
        yield f"{strategy} with sama", ran(fresh(strategy, kind="sama"))
    yield "zero with roll-back", ran(_rolling_back("zero", layers, adam))
    yield "distributed with roll-back", ran(_rolling_back("distributed", layers, adam))


def _rolling_back(strategy: str, layers: Callable[[], Any], adam: Callable[..., Any]) -> Engine:
    config = Config(unroll_steps=UNROLL)
    return program(config, adam, modules=layers(), strategy=strategy, roll_back=True)


def fsdp() -> Iterator[tuple[str, Any]]:
    """Facts of strategy "fsdp"."""
    adam = torch.optim.Adam
    for name, (config, settings) in SHARDABLE.items():
        yield name, ran(program(Config(**config), adam, strategy="fsdp", **settings))
    engine = program(Config(), adam, strategy="fsdp")
    yield "shard", engine.lower.module.weight.to_local().shape  # type: ignore[attr-defined]
    state = engine.state_dict()
    if dist.get_rank() == 0:
        yield "state", state["problems"]["lower"]["module"]["weight"].clone()
    for name in ("neumann", "cg", "itd"):
        try:
            program(Config(**CONFIGS[name]), strategy="fsdp")
        except InputError as error:
            yield f"refused {name}", str(error)


def main(folder: Path) -> None:
    """Run all programs."""
    torch.set_num_threads(1)
    found = {}
    for part in (data_parallel, start_and_data, zero, fsdp):
        found[part.__name__] = dict(part())
    engine = program(Config(unroll_steps=UNROLL), strategy="accelerate")
    found["accelerate"] = ran(engine)
    torch.save(found, folder / f"{dist.get_rank()}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
