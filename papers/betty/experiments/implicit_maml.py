"""Implicit MAML: weights from which a few steps on a few examples solve a new task.

The inner problem adapts a network to one task, held near the meta-weights by a proximal term; the
outer problem moves the meta-weights to lower the loss on the task's queries. Source: Rajeswaran et
al. 2019; Finn et al. 2017; the published package's example.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from statistics import mean, stdev
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from common.runs.programs import Program
from common.runs.run import Run
from common.tasks.batches import Split
from common.tasks.few_shot import (
    FewShotData,
    Task,
    TaskSampler,
    few_shot_net,
    load_classes,
    proximal_loss,
)
from common.tasks.scores import accuracy
from common.training import Core, CoreSettings
from common.training.data_order import mixed
from papers.betty import Config, Engine, EngineConfig, Env, ImplicitProblem
from papers.betty.configs import Strategy
from papers.betty.tasks.training import choose_strategy, recorded, run_engine


class ImplicitMAMLSettings(FewShotData):
    """Tasks, both optimisers, and how the meta-gradient is found."""

    core: CoreSettings = CoreSettings(global_batch_size=16)
    method: Literal["no_meta", "darts", "neumann", "cg", "itd"]
    blocks: int = Field(4, gt=0, description="of the conv net")
    channels: int = Field(64, gt=0)
    pooled: int = Field(1, gt=0, description="side of the maps that the last layer reads")
    tasks: int = Field(gt=0, description="tasks of one step of the meta-weights")
    meta_iterations: int = Field(gt=0, description="steps of the meta-weights")
    unroll_steps: int = Field(5, gt=0, description="steps of adaptation in training")
    adapt_steps: int = Field(5, gt=0, description="steps of adaptation in evaluation")
    lr: float = Field(0.1, gt=0)
    prox: float = Field(0.5, ge=0, description="factor of |w - theta|^2 / 2")
    meta_lr: float = Field(gt=0)
    meta_weight_decay: float = Field(1e-4, ge=0)
    cg_iterations: int = Field(5, gt=0)
    cg_damping: float = Field(0.0, ge=0)
    neumann_iterations: int = Field(5, ge=0)
    neumann_alpha: float = Field(0.1, gt=0)
    test_tasks: int = Field(gt=1)
    validate_every: int = Field(gt=0, description="steps of the meta-weights between evaluations")


class Tasks(TaskSampler, Env):
    """Few-shot tasks of which all problems see the present one; that is part of the state."""

    def __init__(self, examples: Tensor, ways: int, shots: int, queries: int, seed: int) -> None:
        super().__init__(examples, ways, shots, queries, seed)
        self.count = 0
        self.present: Task | None = None

    def initialize(self) -> None:
        self.examples = self.examples.to(self.device)

    def proceed(self) -> None:
        """Make the next task the present one."""
        self.present = self.draw(self.count)
        self.count += 1

    def state_dict(self) -> dict[str, int]:
        """Tasks so far."""
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.count = state["count"]


def run_implicit_maml(settings: ImplicitMAMLSettings, run: Run) -> dict[str, float]:
    """Accuracy (%) on tasks of held-out classes with its standard error over tasks, time (s)."""
    core = Core(settings.core, run)
    strategy = choose_strategy(core, divisible=False)  # adaptation to one task cannot be shared
    train, test = load_classes(settings, run)
    network = few_shot_net(settings.blocks, settings.channels, settings.pooled, settings.ways)
    shape = (settings.ways, settings.shots, settings.queries)
    tasks = Tasks(train, *shape, seed=run.seed)
    held_out = Tasks(test.to(core.device), *shape, seed=mixed(run.seed, 1))

    def evaluate() -> dict[str, float]:
        with torch.enable_grad():
            reached = list(accuracies(network, held_out, settings))
        error = stdev(reached) / len(reached) ** 0.5
        return {"accuracy_pct": mean(reached), "accuracy_error_pct": error}

    if settings.method == "no_meta":
        network.to(core.device)
        rows, seconds = [{"iteration": 0.0, **evaluate()}], 0.0
    else:
        engine = program(settings, network, tasks, strategy)
        core.track(tasks=tasks)
        every = settings.validate_every * settings.tasks * settings.unroll_steps
        history = run_engine(engine, core, evaluate, every)
        rows, seconds = history.rows, history.seconds
    run.write_rows("history.csv", rows)
    core.finish()
    last = {name: value for name, value in rows[-1].items() if name != "iteration"}
    return {**last, "train_s": seconds}


class Adapted:
    """Inner problem: the network fitted to the present task, near the meta-weights."""

    prox = 0.0

    def training_step(self, batch: Split) -> Tensor:
        """Loss on the examples to adapt on."""
        x, y = batch
        own, centre = self.trainable_parameters(), self.meta.trainable_parameters()  # type: ignore[attr-defined]
        return proximal_loss(self.module(x), y, own, centre, self.prox)  # type: ignore[attr-defined]

    def on_inner_loop_start(self) -> None:
        """Every loop is another task."""
        self.env.proceed()  # type: ignore[attr-defined]

    def starts_from(self) -> Any:
        """Every adaptation starts from the meta-weights."""
        return self.meta  # type: ignore[attr-defined]

    def get_batch(self) -> Split:
        """All examples to adapt on."""
        return self.env.present.support  # type: ignore[attr-defined, no-any-return]


class ImplicitAdapted(Adapted, ImplicitProblem):
    """Differentiated implicitly: implicit MAML."""


class Meta(ImplicitProblem):
    """Outer problem: loss of the adapted network on the queries of its task."""

    def training_step(self, batch: Split) -> Tensor:
        """Mean loss."""
        x, y = batch
        return functional.cross_entropy(self.adapted(x), y)  # type: ignore[attr-defined]

    def get_batch(self) -> Split:
        """All queries."""
        return self.env.present.query  # type: ignore[union-attr, no-any-return]


def program(
    settings: ImplicitMAMLSettings, network: nn.Module, tasks: Env, strategy: Strategy = "cpu"
) -> Engine:
    """The bilevel program over ``network``, whose parameters are the meta-weights."""
    start = copy.deepcopy(network)
    # Differentiated through its steps it is MAML itself.
    kind = recorded(Adapted) if settings.method == "itd" else ImplicitAdapted
    adapted = kind(
        "adapted",
        Config(
            type=settings.method,  # type: ignore[arg-type]
            unroll_steps=settings.unroll_steps,
            cg_iterations=settings.cg_iterations,
            cg_damping=settings.cg_damping,
            neumann_iterations=settings.neumann_iterations,
            neumann_alpha=settings.neumann_alpha,
        ),
        start,
        torch.optim.SGD(start.parameters(), lr=settings.lr),
    )
    adapted.prox = settings.prox
    meta = Meta(
        "meta",
        Config(gradient_accumulation=settings.tasks),
        network,
        torch.optim.AdamW(
            network.parameters(), lr=settings.meta_lr, weight_decay=settings.meta_weight_decay
        ),
    )
    iterations = settings.meta_iterations * settings.tasks * settings.unroll_steps
    config = EngineConfig(train_iters=iterations, strategy=strategy)
    dependencies = {"u2l": {"meta": ["adapted"]}, "l2u": {"adapted": ["meta"]}}
    return Engine([meta, adapted], config, dependencies, tasks)


def accuracies(network: nn.Module, tasks: Tasks, settings: ImplicitMAMLSettings) -> Iterator[float]:
    """Accuracy (%) on the queries of each test task, after adaptation from ``network``."""
    centre = [weight.detach() for weight in network.parameters()]
    for number in range(settings.test_tasks):
        support, query = tasks.draw(number)
        adapted = copy.deepcopy(network)
        weights = list(adapted.parameters())
        optimizer = torch.optim.SGD(weights, lr=settings.lr)
        for _ in range(settings.adapt_steps):
            optimizer.zero_grad()
            loss = proximal_loss(adapted(support.x), support.y, weights, centre, settings.prox)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            yield accuracy(adapted(query.x), query.y)


PROGRAM = Program(ImplicitMAMLSettings, run_implicit_maml)
