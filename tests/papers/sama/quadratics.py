"""A bilevel problem whose hypergradients are known: costs that are quadratic in the weights.

Base: ``|w|_A^2 / 2 - w'B l``; meta: ``|w - c|^2 / 2 + l'l / 2``. The mixed derivative is ``-B`` at
every w, so that SAMA is exact but for the inverse of ``du/dw``.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from papers.sama import Adaptation

SIZE, META = 6, 4


class Vector(nn.Module):
    """Some numbers."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(values.clone())


class Quadratic:
    """Weights after ``steps`` steps of an optimiser, whose last one is watched."""

    def __init__(
        self, make: Callable[..., Optimizer], steps: int = 3, seed: int = 0, clip: float = 0.0
    ) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        root = normal(SIZE, SIZE)
        self.a = root @ root.T / SIZE + torch.eye(SIZE, dtype=torch.float64)
        self.b, self.c = normal(SIZE, META), normal(SIZE)
        self.base, self.meta = Vector(normal(SIZE)), Vector(normal(META))
        self.make = make
        self.optimizer = make([self.w])
        self.adaptation = Adaptation(self.optimizer)
        self.before: tuple[Tensor, dict[str, Any]] = (self.w, {})
        for _ in range(steps):
            self.before = (self.w.detach().clone(), copy.deepcopy(self.optimizer.state_dict()))
            self.optimizer.zero_grad()
            self.base_cost().backward()  # type: ignore[no-untyped-call]
            if clip:
                self.adaptation.clip_grad_norm_(clip)
            self.optimizer.step()

    @property
    def w(self) -> Tensor:
        return self.base.values

    @property
    def l(self) -> Tensor:  # noqa: E743
        return self.meta.values

    @property
    def vector(self) -> Tensor:
        """Derivative of the meta cost by the weights."""
        return (self.w - self.c).detach()

    def base_cost(self) -> Tensor:
        return self.w @ self.a @ self.w / 2 - self.w @ self.b @ self.l

    def meta_cost(self) -> Tensor:
        return (self.w - self.c).square().sum() / 2 + self.l.square().sum() / 2

    def step_again(self, values: Tensor) -> Tensor:
        """Weights after the last step if the meta parameters had been ``values``."""
        start, state = self.before
        w = start.clone().requires_grad_()
        optimizer = self.make([w])
        optimizer.load_state_dict(copy.deepcopy(state))
        (w @ self.a @ w / 2 - w @ self.b @ values).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return w.detach()
