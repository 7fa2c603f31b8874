"""Two programs, each in this library, in the published package and in others beside it.

:class:`Reweighting` is a Meta-Weight-Net over an MLP, :class:`Adaptation` (implicit) MAML over a
convolutional network, on random batches. All sides start from the same networks and do the same
arithmetic; a side is a callable that takes one meta step, on a GPU where there is one.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import pairwise, repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam

from common.tasks.few_shot import few_shot_net, proximal_loss
from common.tasks.networks import MetaWeightNet, mlp
from papers.betty import Config, Engine, EngineConfig, ImplicitProblem, IterativeProblem
from papers.betty.configs import Method

Step = Callable[[], None]
Batch = tuple[Tensor, Tensor]


class Library(NamedTuple):
    """What a program is made of: ours, or the published package's classes of the same names."""

    engine: Any
    engine_config: Any
    config: Any
    implicit: Any
    iterative: Any


OURS = Library(Engine, EngineConfig, Config, ImplicitProblem, IterativeProblem)


def betty_ml() -> Library | None:
    """The published package, where it is installed; another package is named ``betty`` too."""
    if find_spec("betty") is None or find_spec("betty.hypergradient") is None:
        return None
    from betty import configs, engine, problems
    from betty.logging.logger_base import get_logger

    get_logger().setLevel(logging.WARNING)
    # Its IterativeProblem reads a setting that it does not have, so it has no unrolled steps.
    return Library(
        engine.Engine, engine.EngineConfig, configs.Config, problems.ImplicitProblem, None
    )


class Reweighting:
    """Meta-Weight-Net: SGD with momentum on weighted losses, Adam on the network of the weights.

    Args:
        width: of the two hidden layers of the network below.
    """

    INPUTS, CLASSES, BATCH, LR, ALPHA = 64, 10, 100, 0.1, 0.01

    def __init__(self, width: int) -> None:
        torch.manual_seed(0)
        device = _device()
        self._net = mlp(self.INPUTS, width, width, self.CLASSES).to(device)
        self._weigh = MetaWeightNet().to(device)
        labels = torch.randint(self.CLASSES, (2, self.BATCH), device=device)
        inputs = torch.randn(2, self.BATCH, self.INPUTS, device=device)
        self.train, self.meta = zip(inputs, labels, strict=True)
        self.parameters = sum(p.numel() for p in self._net.parameters())

    def _fresh(self) -> tuple[nn.Module, nn.Module, SGD, Adam]:
        """Networks below and above, and their optimisers."""
        net, weigh = copy.deepcopy(self._net), copy.deepcopy(self._weigh)
        below = SGD(net.parameters(), lr=self.LR, momentum=0.9)
        return net, weigh, below, Adam(weigh.parameters(), lr=1e-3)

    def plain(self) -> Step:
        """An ordinary training step of the lower network, without weights."""
        net, _, below, _ = self._fresh()
        return _make_plain_step(net, below, self.train)

    def program(self, library: Library, method: Method, unroll_steps: int = 1) -> Step:
        """``unroll_steps`` lower steps and a meta step by an engine."""
        net, weigh, below, above = self._fresh()

        class Inner(library.iterative if method == "itd" else library.implicit):  # type: ignore[misc]
            def training_step(self, batch: Batch) -> Tensor:
                x, y = batch
                losses = cross_entropy(self.module(x), y, reduction="none")
                seen = self.held("losses", losses) if library is OURS else losses.detach()
                cost: Tensor = (self.outer(seen) * losses).mean()
                return cost

        class Outer(library.implicit):  # type: ignore[misc, name-defined]
            def training_step(self, batch: Batch) -> Tensor:
                x, y = batch
                return cross_entropy(self.inner(x), y)

        config = library.config(type=method, unroll_steps=unroll_steps)
        inner = Inner("inner", config, net, below, train_data_loader=repeat(self.train))
        outer = Outer("outer", library.config(), weigh, above, train_data_loader=repeat(self.meta))
        return _meta_step(library, inner, outer, unroll_steps)

    def by_hand(self) -> Step:
        """A lower step and a meta step by finite differences, as plain PyTorch."""
        net, weigh, below, above = self._fresh()
        params, meta = list(net.parameters()), list(weigh.parameters())

        def cost(held: Tensor | None) -> tuple[Tensor, Tensor]:
            losses = cross_entropy(net(self.train[0]), self.train[1], reduction="none")
            held = losses.detach() if held is None else held
            return (weigh(held) * losses).mean(), held

        def move(vector: Sequence[Tensor], scale: float) -> None:
            with torch.no_grad():
                for p, v in zip(params, vector, strict=True):
                    p.add_(v, alpha=scale)

        def step() -> None:
            loss, held = cost(None)
            _take(below, params, torch.autograd.grad(loss, params))
            vector = torch.autograd.grad(cross_entropy(net(self.meta[0]), self.meta[1]), params)
            eps = self.ALPHA / torch.stack([v.norm() for v in vector]).norm().item()
            kept = [p.detach().clone() for p in params]
            move(vector, eps)
            plus = torch.autograd.grad(cost(held)[0], meta)
            move(vector, -2 * eps)
            minus = torch.autograd.grad(cost(held)[0], meta)
            with torch.no_grad():
                for p, k in zip(params, kept, strict=True):
                    p.copy_(k)
            grads = [(m - p) / (2 * eps) for p, m in zip(plus, minus, strict=True)]
            _take(above, meta, grads)

        return step

    def with_higher(self, unroll_steps: int) -> Step:
        """Unrolled by the library higher."""
        import higher

        net, weigh, below, above = self._fresh()

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

    def with_torchopt(self, unroll_steps: int) -> Step:
        """Unrolled by the library TorchOpt."""
        import torchopt

        net, weigh, _, above = self._fresh()
        below = torchopt.MetaSGD(net, lr=self.LR, momentum=0.9)

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


class Adaptation:
    """MAML on one task of 5 classes: SGD from the meta-weights, Adam on them.

    Args:
        blocks, channels: of the network.
        side: of the images, pixels.
    """

    CLASSES, SHOTS, QUERIES, LR, CG_ITERATIONS = 5, 5, 15, 0.01, 5
    #: Large enough for a positive Hessian: at a negative curvature ours would stop early.
    PROX = 10.0

    def __init__(self, blocks: int, channels: int, side: int) -> None:
        torch.manual_seed(0)
        device = _device()
        self._net = few_shot_net(blocks, channels, 1, self.CLASSES).to(device)
        self.support, self.query = (
            (
                torch.rand(self.CLASSES * shots, 1, side, side, device=device),
                torch.arange(self.CLASSES, device=device).repeat(shots),
            )
            for shots in (self.SHOTS, self.QUERIES)
        )
        self.parameters = sum(p.numel() for p in self._net.parameters())

    def _fresh(self) -> tuple[nn.Module, nn.Module, SGD, Adam]:
        """Networks that adapts and that holds the meta-weights, and their optimisers."""
        adapted, meta = copy.deepcopy(self._net), copy.deepcopy(self._net)
        below = SGD(adapted.parameters(), lr=self.LR)
        return adapted, meta, below, Adam(meta.parameters(), lr=1e-3)

    def program(self, library: Library, method: Method, unroll_steps: int) -> Step:
        """A meta step by an engine.

        With a proximal term and ``method``; ``itd`` has no term, but the start.
        """
        adapted, meta, below, above = self._fresh()
        prox = 0.0 if method == "itd" else self.PROX

        class Inner(library.iterative if method == "itd" else library.implicit):  # type: ignore[misc]
            def training_step(self, batch: Batch) -> Tensor:
                x, y = batch
                return proximal_loss(
                    self.module(x), y, self.parameters(), self.outer.parameters(), prox
                )

            def starts_from(self) -> Any:
                return self.outer

            def on_inner_loop_start(self) -> None:
                if library is not OURS:  # it has no starts_from
                    self.module.load_state_dict(self.outer.module.state_dict())

        class Outer(library.implicit):  # type: ignore[misc, name-defined]
            def training_step(self, batch: Batch) -> Tensor:
                x, y = batch
                return cross_entropy(self.inner(x), y)

        config = library.config(
            type=method, unroll_steps=unroll_steps, cg_iterations=self.CG_ITERATIONS
        )
        inner = Inner("inner", config, adapted, below, train_data_loader=repeat(self.support))
        outer = Outer("outer", library.config(), meta, above, train_data_loader=repeat(self.query))
        return _meta_step(library, inner, outer, unroll_steps)

    def by_hand(self, unroll_steps: int) -> Step:
        """Implicit MAML by conjugate gradients, as plain PyTorch.

        By hand one knows that the mixed derivative of the proximal term is ``-PROX I``.
        """
        adapted, meta_net, below, above = self._fresh()
        params, meta = list(adapted.parameters()), list(meta_net.parameters())

        def cost() -> Tensor:
            x, y = self.support
            return proximal_loss(adapted(x), y, params, [m.detach() for m in meta], self.PROX)

        def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
            return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()

        def along(a: Sequence[Tensor], b: Sequence[Tensor], length: Tensor) -> list[Tensor]:
            return [x + length * y for x, y in zip(a, b, strict=True)]

        def step() -> None:
            with torch.no_grad():
                for p, m in zip(params, meta, strict=True):
                    p.copy_(m)
            for _ in range(unroll_steps):
                _take(below, params, torch.autograd.grad(cost(), params))
            upper = cross_entropy(adapted(self.query[0]), self.query[1])
            residual = list(torch.autograd.grad(upper, params))
            gradient = torch.autograd.grad(cost(), params, create_graph=True)
            direction, solution = residual, [torch.zeros_like(p) for p in params]
            squared = dot(residual, residual)
            for _ in range(self.CG_ITERATIONS):
                product = torch.autograd.grad(gradient, params, direction, retain_graph=True)
                length = squared / dot(direction, product)
                solution = along(solution, direction, length)
                residual = along(residual, product, -length)
                before, squared = squared, dot(residual, residual)
                direction = along(residual, direction, squared / before)
            _take(above, meta, [self.PROX * part for part in solution])

        return step

    def with_higher(self, unroll_steps: int) -> Step:
        """MAML by the library higher."""
        import higher

        _, meta, _, above = self._fresh()
        below = SGD(meta.parameters(), lr=self.LR)

        def step() -> None:
            start = higher.innerloop_ctx(meta, below, copy_initial_weights=False)
            with start as (unrolled, optimizer):
                for _ in range(unroll_steps):
                    optimizer.step(cross_entropy(unrolled(self.support[0]), self.support[1]))
                above.zero_grad()
                torch.autograd.backward(cross_entropy(unrolled(self.query[0]), self.query[1]))
                above.step()

        return step

    def with_torchopt(self, unroll_steps: int) -> Step:
        """MAML by the library TorchOpt."""
        import torchopt

        _, meta, _, above = self._fresh()
        below = torchopt.MetaSGD(meta, lr=self.LR)

        def step() -> None:
            start, state = (
                torchopt.extract_state_dict(part, by="reference") for part in (meta, below)
            )
            for _ in range(unroll_steps):
                below.step(cross_entropy(meta(self.support[0]), self.support[1]))
            loss = cross_entropy(meta(self.query[0]), self.query[1])
            torchopt.recover_state_dict(meta, start)
            torchopt.recover_state_dict(below, state)
            above.zero_grad()
            torch.autograd.backward(loss)
            above.step()

        return step


class Chain:
    """A chain of equal networks: each reads the optimum of the one below, the lowest the top.

    The hypergradient of the top is a product of ``levels - 1`` Jacobians.
    """

    WIDTH, PULL = 128, 0.01

    def __init__(self, levels: int) -> None:
        torch.manual_seed(0)
        self._task = Reweighting(self.WIDTH)
        self._levels = levels

    def plain(self) -> Step:
        """An ordinary training step of one of the networks."""
        return self._task.plain()

    def program(self) -> Step:
        """A step of every level, by finite differences."""
        names = [f"level{index}" for index in range(self._levels)]

        class Level(ImplicitProblem):
            reads: str

            def training_step(self, batch: Batch) -> Tensor:
                x, y = batch
                other = getattr(self, self.reads).parameters()
                return proximal_loss(self.module(x), y, self.parameters(), other, Chain.PULL)

        problems = []
        for index, name in enumerate(names):
            net, _, below, _ = self._task._fresh()
            level = Level(name, Config(), net, below, train_data_loader=repeat(self._task.train))
            level.reads = names[index - 1]  # the lowest reads the top
            problems.append(level)
        edges = {
            "u2l": {names[-1]: [names[0]]},
            "l2u": {low: [high] for low, high in pairwise(names)},
        }
        engine = Engine(problems, EngineConfig(), edges)
        engine.train()
        return engine.train_step


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _meta_step(library: Library, inner: Any, outer: Any, unroll_steps: int) -> Step:
    engine = library.engine(
        [inner, outer],
        library.engine_config(),
        {"u2l": {outer: [inner]}, "l2u": {inner: [outer]}},
    )
    engine.train()

    def step() -> None:
        for _ in range(unroll_steps):
            engine.train_step()

    return step


def _make_plain_step(net: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> Step:
    params = list(net.parameters())

    def step() -> None:
        loss = cross_entropy(net(batch[0]), batch[1])
        _take(optimizer, params, torch.autograd.grad(loss, params))

    return step


def _take(
    optimizer: torch.optim.Optimizer, params: Sequence[Tensor], grads: Sequence[Tensor]
) -> None:
    """An optimiser's step along ``grads``."""
    for p, g in zip(params, grads, strict=True):
        p.grad = g
    optimizer.step()
    optimizer.zero_grad()
