"""One program by every algorithm of Table 2: training steps and a meta gradient.

SAMA comes from this paper's library, the others from Betty's. All start from the same networks,
take the same batches and step with Adam on both levels.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from typing import Literal

import torch
import torch.distributed as dist
from pydantic import Field
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from common.experiments.settings import Settings
from papers.betty.configs import Strategy
from papers.sama import SAMA, Adaptation
from papers.sama.methods.bilevel import Constant
from papers.sama.tasks.random_classes import Batch, RandomClasses, losses_of
from papers.sama.three_passes import Cost

#: So many base steps and, but for plain training, one meta step.
Cycle = Callable[[], None]
Algorithm = Literal["plain", "sama", "sama_na", "neumann", "cg", "itd"]


class AlgorithmSettings(Settings):
    """How the hypergradient is found. What the paper took of these is not stated."""

    name: Algorithm
    unroll_steps: int = Field(1, gt=0, description="base steps for each meta step; itd unrolls all")
    iterations: int = Field(1, gt=0, description="of neumann and cg; 1 is the package's default")
    neumann_alpha: float = Field(0.01, gt=0)
    cg_damping: float = Field(
        10.0, ge=0, description="large: where a direction has no positive curvature cg would stop"
    )
    lr: float = Field(1e-4, gt=0, description="of Adam, base")
    meta_lr: float = Field(1e-4, gt=0, description="of Adam, meta")
    alpha: float = Field(1.0, gt=0, description="length of SAMA's shift")

    def cycle(self, task: RandomClasses) -> Cycle:
        """A cycle of the algorithm on a task, in this process's group if it is in one."""
        if self.name in ("plain", "sama", "sama_na"):
            return self._first_order(task)
        return self._of_engine(task)

    def _first_order(self, task: RandomClasses) -> Cycle:
        base, meta = (_wrapped(part) for part in (task.base, task.meta))
        learns = self.name != "plain"
        params = list(base.parameters())
        optimizer = torch.optim.Adam(params, lr=self.lr)
        above = torch.optim.Adam(meta.parameters(), lr=self.meta_lr)
        adaptation = Adaptation(optimizer) if self.name == "sama" else None
        sama = SAMA(base, meta, adaptation, alpha=self.alpha)

        def base_step() -> Cost:
            seen = Constant()

            def base_cost() -> Tensor:
                losses = losses_of(base, task.train)
                cost: Tensor = (meta(seen(losses)) * losses if learns else losses).mean()
                return cost

            base_cost().backward(inputs=params)  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            return base_cost

        def cycle() -> None:
            for _ in range(self.unroll_steps):
                base_cost = base_step()
            if learns:
                above.zero_grad()
                sama.backward(lambda: losses_of(base, task.clean).mean(), base_cost)
                above.step()

        base_step()  # D is 0 after Adam's first step
        return cycle

    def _of_engine(self, task: RandomClasses) -> Cycle:
        from papers.betty import Config, Engine, EngineConfig, ImplicitProblem, IterativeProblem

        kind: type[ImplicitProblem] | type[IterativeProblem]
        kind = IterativeProblem if self.name == "itd" else ImplicitProblem

        class Classifier(kind):  # type: ignore[valid-type, misc]
            def training_step(self, batch: Batch) -> Tensor:
                losses = losses_of(self.module, batch)
                cost: Tensor = (self.weights(self.held("losses", losses)) * losses).mean()
                return cost

        class Weights(ImplicitProblem):
            def training_step(self, batch: Batch) -> Tensor:
                return losses_of(self.classifier, batch).mean()  # type: ignore[attr-defined]

        config = Config(
            type=self.name,  # type: ignore[arg-type]
            unroll_steps=self.unroll_steps,
            neumann_iterations=self.iterations,
            neumann_alpha=self.neumann_alpha,
            cg_iterations=self.iterations,
            cg_damping=self.cg_damping,
        )
        below = Classifier(
            "classifier",
            config,
            task.base,
            torch.optim.Adam(task.base.parameters(), lr=self.lr),
            train_data_loader=repeat(task.train),
        )
        above = Weights(
            "weights",
            Config(),
            task.meta,
            torch.optim.Adam(task.meta.parameters(), lr=self.meta_lr),
            train_data_loader=repeat(task.clean),
        )
        strategy: Strategy = "gpu" if task.train[0].is_cuda else "cpu"
        if dist.is_initialized():
            strategy = "distributed"
        engine = Engine(
            [above, below],
            EngineConfig(strategy=strategy),
            {"u2l": {above: [below]}, "l2u": {below: [above]}},
        )
        engine.train()

        def cycle() -> None:
            for _ in range(self.unroll_steps):
                engine.train_step()

        return cycle


def _wrapped(module: nn.Module) -> nn.Module:
    """The module, its gradients averaged over this process's group if there is one."""
    return DistributedDataParallel(module) if dist.is_initialized() else module
