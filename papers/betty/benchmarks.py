"""Time and memory of a meta step beside other libraries and a loop written by hand.

Every peer trains the same Meta-Weight-Net on the same batches in the same process: a lower step of
SGD with momentum, and after it a meta step of Adam. A peer that is not installed is left out.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from importlib.util import find_spec
from itertools import repeat

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from common.results.benchmarks import BenchmarkRow, compare
from papers.betty import Config, Engine, EngineConfig, ImplicitProblem, IterativeProblem
from papers.betty.configs import Method
from papers.betty.networks import MetaWeightNet, mlp
from papers.betty.training import SavedTensors

PAPER = "betty"
#: Hidden width of a network with two hidden layers, by scale.
WIDTHS = {"smoke": (32,), "laptop": (64, 512), "paper": (64, 512, 2048, 7000)}
STEPS = {"smoke": 2, "laptop": 10, "paper": 10}
INPUTS, CLASSES, BATCH, ALPHA, LR = 64, 10, 100, 0.01, 0.1


class _Inner(IterativeProblem):
    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        losses = cross_entropy(self.module(x), y, reduction="none")
        weights: Tensor = self.outer(self.held("losses", losses))  # type: ignore[attr-defined]
        return (weights * losses).mean()


class _Outer(ImplicitProblem):
    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return cross_entropy(self.inner(x), y)  # type: ignore[attr-defined]


class Task:
    """Networks and batches that ours and a peer start from."""

    def __init__(self, width: int) -> None:
        torch.manual_seed(0)
        self.net = mlp(INPUTS, width, width, CLASSES)
        self.weigh = MetaWeightNet()
        labels = torch.randint(CLASSES, (2, BATCH))
        inputs = torch.randn(2, BATCH, INPUTS)
        self.train, self.meta = zip(inputs, labels, strict=True)

    @property
    def parameters(self) -> int:
        """Of the lower network."""
        return sum(p.numel() for p in self.net.parameters())

    def optimizers(
        self, net: nn.Module, weigh: nn.Module
    ) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
        """SGD with momentum below, Adam above."""
        return (
            torch.optim.SGD(net.parameters(), lr=LR, momentum=0.9),
            torch.optim.Adam(weigh.parameters(), lr=1e-3),
        )

    def engine(self, method: Method, unroll_steps: int = 1) -> Engine:
        """Our program on copies of the networks."""
        net, weigh = copy.deepcopy(self.net), copy.deepcopy(self.weigh)
        below, above = self.optimizers(net, weigh)
        inner = _Inner(
            "inner",
            Config(type=method, unroll_steps=unroll_steps),
            net,
            below,
            train_data_loader=repeat(self.train),
        )
        outer = _Outer("outer", Config(), weigh, above, train_data_loader=repeat(self.meta))
        program = Engine(
            [inner, outer],
            EngineConfig(strategy="cpu"),
            {"u2l": {outer: [inner]}, "l2u": {inner: [outer]}},
        )
        program.train()
        return program

    def by_hand(self) -> Callable[[], None]:
        """One lower and one meta step with a finite difference, as plain PyTorch."""
        net, weigh = copy.deepcopy(self.net), copy.deepcopy(self.weigh)
        below, above = self.optimizers(net, weigh)
        params, meta = list(net.parameters()), list(weigh.parameters())

        def cost(held: Tensor | None) -> tuple[Tensor, Tensor]:
            losses = cross_entropy(net(self.train[0]), self.train[1], reduction="none")
            held = losses.detach() if held is None else held
            return (weigh(held) * losses).mean(), held

        def step() -> None:
            loss, held = cost(None)
            for p, g in zip(params, torch.autograd.grad(loss, params), strict=True):
                p.grad = g
            below.step()
            upper = cross_entropy(net(self.meta[0]), self.meta[1])
            vector = torch.autograd.grad(upper, params)
            eps = ALPHA / torch.stack([v.norm() for v in vector]).norm()
            kept = [p.detach().clone() for p in params]
            with torch.no_grad():
                for p, v in zip(params, vector, strict=True):
                    p.add_(eps * v)
            above_grad = torch.autograd.grad(cost(held)[0], meta)
            with torch.no_grad():
                for p, v in zip(params, vector, strict=True):
                    p.sub_(2 * eps * v)
            below_grad = torch.autograd.grad(cost(held)[0], meta)
            with torch.no_grad():
                for p, k in zip(params, kept, strict=True):
                    p.copy_(k)
            for p, plus, minus in zip(meta, above_grad, below_grad, strict=True):
                p.grad = (minus - plus) / (2 * eps)
            above.step()

        return step

    def with_higher(self, unroll_steps: int) -> Callable[[], None]:
        """Meta step through unrolled SGD with the library higher."""
        import higher

        net, weigh = copy.deepcopy(self.net), copy.deepcopy(self.weigh)
        below, above = self.optimizers(net, weigh)

        def step() -> None:
            with higher.innerloop_ctx(net, below) as (unrolled, optimizer):
                for _ in range(unroll_steps):
                    losses = cross_entropy(unrolled(self.train[0]), self.train[1], reduction="none")
                    optimizer.step((weigh(losses.detach()) * losses).mean())
                above.zero_grad()
                torch.autograd.backward(cross_entropy(unrolled(self.meta[0]), self.meta[1]))
                above.step()
                with torch.no_grad():
                    for p, new in zip(net.parameters(), unrolled.parameters(), strict=True):
                        p.copy_(new)

        return step

    def with_torchopt(self, unroll_steps: int) -> Callable[[], None]:
        """Meta step through unrolled SGD with the library TorchOpt."""
        import torchopt

        net, weigh = copy.deepcopy(self.net), copy.deepcopy(self.weigh)
        below = torchopt.MetaSGD(net, lr=LR, momentum=0.9)
        _, above = self.optimizers(net, weigh)

        def step() -> None:
            for _ in range(unroll_steps):
                losses = cross_entropy(net(self.train[0]), self.train[1], reduction="none")
                below.step((weigh(losses.detach()) * losses).mean())
            above.zero_grad()
            torch.autograd.backward(cross_entropy(net(self.meta[0]), self.meta[1]))
            above.step()
            torchopt.stop_gradient(net)
            torchopt.stop_gradient(below)

        return step


def ours(program: Engine, iterations: int) -> Callable[[], None]:
    """So many engine iterations."""

    def run() -> None:
        for _ in range(iterations):
            program.train_step()

    return run


def times(step: Callable[[], None], count: int) -> Callable[[], None]:
    """``step`` so many times."""

    def run() -> None:
        for _ in range(count):
            step()

    return run


def meta_step(scale: str) -> list[BenchmarkRow]:
    """Finite differences beside a hand-written loop; unrolled steps beside higher and TorchOpt."""
    rows, count = [], STEPS[scale]
    for width in WIDTHS[scale]:
        task = Task(width)
        timed = compare(ours(task.engine("darts"), count), times(task.by_hand(), count))
        name = f"AID-FD step, {task.parameters:,} parameters"
        rows.append(timed.row(PAPER, name, "hand-written loop", note=f"{count} steps"))
    task = Task(WIDTHS[scale][min(1, len(WIDTHS[scale]) - 1)])
    peers = {"higher": task.with_higher, "torchopt": task.with_torchopt}
    for name, peer in peers.items():
        if find_spec(name) is None:
            continue
        for unroll in (1, 5):
            program = task.engine("itd", unroll)
            timed = compare(ours(program, count * unroll), times(peer(unroll), count))
            what = f"ITD step, {unroll} unrolled, {task.parameters:,} parameters"
            rows.append(timed.row(PAPER, what, name, note=f"{count} meta steps"))
    return rows


def memory(scale: str) -> list[BenchmarkRow]:
    """Bytes that autograd keeps over an inner loop and its meta step."""
    task = Task(WIDTHS[scale][0])
    hand = _peak(task.by_hand())
    rows = [_memory_row("AID-FD, 1 step", "hand-written loop", _peak_of(task, "darts", 1), hand)]
    one: Method
    for one in ("darts", "neumann", "cg", "itd"):
        base = _peak_of(task, one, 1)
        rows.append(
            _memory_row(
                f"{one}, 10 unrolled steps", f"{one}, 1 step", _peak_of(task, one, 10), base
            )
        )
    if find_spec("higher") is not None:
        pair = _peak_of(task, "itd", 5), _peak(task.with_higher(5))
        rows.append(_memory_row("ITD, 5 unrolled steps", "higher", *pair))
    return rows


def growth(scale: str) -> list[BenchmarkRow]:
    """Time of a meta step as parameters and unrolled steps grow."""
    rows = []
    base = Task(WIDTHS[scale][0])
    small = ours(base.engine("darts"), STEPS[scale])
    for width in WIDTHS[scale][1:]:
        task = Task(width)
        timed = compare(ours(task.engine("darts"), STEPS[scale]), small, repeats=3)
        what = f"AID-FD step, {task.parameters:,} parameters"
        rows.append(timed.row(PAPER, what, f"same, {base.parameters:,} parameters"))
    for unroll in (5, 20):
        timed = compare(ours(base.engine("darts", unroll), STEPS[scale] * unroll), small, repeats=3)
        rows.append(timed.row(PAPER, f"AID-FD loop of {unroll} steps", "loop of 1 step"))
    return rows


def _peak_of(task: Task, method: Method, unroll: int) -> int:
    return _peak(ours(task.engine(method, unroll), unroll))


def _peak(step: Callable[[], None]) -> int:
    with SavedTensors().watched() as saved:
        step()
    return saved.peak_bytes


def _memory_row(what: str, peer: str, mine: int, theirs: int) -> BenchmarkRow:
    ratio = mine / theirs
    return BenchmarkRow(
        paper=PAPER,
        what=f"saved tensors: {what}",
        peer=peer,
        ratio=ratio,
        low=ratio,
        high=ratio,
        n=1,
        ours=mine / 2**20,
        theirs=theirs / 2**20,
        unit="MiB",
    )


BENCHMARKS = {"meta_step": meta_step, "memory": memory, "growth": growth}
