"""Small programs whose hypergradients are known: quadratics in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from papers.betty import Config, Engine, EngineConfig, ImplicitProblem, IterativeProblem, Problem

Cost = Callable[..., Tensor]


class Vector(nn.Module):
    """A parameter vector; calling it gives the vector."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.w = nn.Parameter(start.clone())

    def forward(self) -> Tensor:
        """The vector."""
        return self.w


class Endless:
    """A data loader of the same empty batch."""

    def __iter__(self) -> Any:
        while True:
            yield ()


def problem(
    name: str,
    start: Tensor,
    cost: Cost,
    reads: tuple[str, ...] = (),
    config: Config | None = None,
    optimizer: Callable[..., torch.optim.Optimizer] | None = None,
    kind: type[Problem] = ImplicitProblem,
) -> Problem:
    """A problem with one parameter vector and ``cost(own, *others)``."""

    class Quadratic(kind):  # type: ignore[misc, valid-type]
        def training_step(self, batch: Any) -> Tensor:
            return cost(self(), *(getattr(self, other)() for other in reads))

    module = Vector(start)
    make = optimizer or (lambda params: torch.optim.SGD(params, lr=0.0))
    return Quadratic(name, config, module, make(module.parameters()), train_data_loader=Endless())


def engine(
    problems: list[Problem], u2l: dict[str, list[str]], l2u: dict[str, list[str]], **settings: Any
) -> Engine:
    """An engine on the CPU."""
    config = EngineConfig(**({"train_iters": 1, "strategy": "cpu"} | settings))
    return Engine(problems, config, {"u2l": u2l, "l2u": l2u})


def spd(size: int, generator: torch.Generator, low: float = 0.5, high: float = 2.0) -> Tensor:
    """A symmetric matrix with eigenvalues spread evenly between ``low`` and ``high``."""
    q, _ = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))
    return q @ torch.diag(torch.linspace(low, high, size, dtype=torch.float64)) @ q.T


def normal(*shape: int, generator: torch.Generator) -> Tensor:
    """Standard normal numbers in float64."""
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def hypergradient_of(upper: Problem) -> Tensor:
    """What one step of ``upper`` puts into its gradient, its optimiser not stepped."""
    caught: list[Tensor] = []
    upper.grad_callback = lambda: caught.append(upper.trainable_parameters()[0].grad.clone())  # type: ignore[method-assign, union-attr]
    upper.engine.train_step()  # type: ignore[union-attr]
    return caught[-1]


__all__ = ["IterativeProblem", "engine", "hypergradient_of", "normal", "problem", "spd"]
