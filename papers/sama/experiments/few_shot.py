"""Implicit MAML with SAMA's hypergradient: weights from which a few steps solve a new task.

Base level: a network fitted to a task's few examples, ``L_support(w) + prox |w - theta|^2 / 2``;
meta level: its loss on the task's queries, by ``theta``, from which every fit starts. The mixed
derivative is ``-prox I``, so that SAMA's hypergradient is ``prox D dL_query/dw`` in closed form:
without adaptation that is first-order MAML. Source: Rajeswaran et al. 2019; Finn et al. 2017; an
appendix of Choe et al. 2023 that was not read.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
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
from papers.betty import Config
from papers.betty.hypergradient import METHODS
from papers.sama import Adaptation, hypergradient


class FewShot(FewShotData):
    """Tasks, both optimisers, and how the meta gradient is found."""

    core: CoreSettings = CoreSettings(global_batch_size=16)
    method: Literal["no_meta", "reptile", "cg", "sama", "sama_na"]
    blocks: int = Field(4, gt=0, description="of the conv net")
    channels: int = Field(64, gt=0)
    pooled: int = Field(1, gt=0, description="side of the maps that the last layer reads")
    tasks: int = Field(gt=0, description="tasks of one step of the meta-weights")
    meta_iterations: int = Field(gt=0, description="steps of the meta-weights")
    unroll_steps: int = Field(5, gt=1, description="steps of a fit, in training and evaluation")
    base_optimizer: Literal["sgd", "adam"]
    lr: float = Field(gt=0)
    prox: float = Field(0.5, ge=0, description="factor of |w - theta|^2 / 2")
    meta_lr: float = Field(gt=0)
    alpha: float = Field(1.0, gt=0, description="length of SAMA's shift")
    cg_iterations: int = Field(5, gt=0)
    test_tasks: int = Field(gt=1)
    validate_every: int = Field(gt=0, description="steps of the meta-weights between evaluations")


class Fit:
    """The network fitted to one task from the meta-weights; betty's methods read it as a problem.

    Args:
        settings: optimiser, steps, proximal term.
        meta: the meta-weights' network.
        support: examples.
    """

    name = "fit"

    def __init__(self, settings: FewShot, meta: nn.Module, support: Split) -> None:
        self.meta, self.support, self._prox = meta, support, settings.prox
        self.network = copy.deepcopy(meta)
        self.weights: list[Tensor] = list(self.network.parameters())
        self.config = Config(type="cg", cg_iterations=settings.cg_iterations)
        kind = torch.optim.SGD if settings.base_optimizer == "sgd" else torch.optim.Adam
        self.optimizer = kind(self.weights, lr=settings.lr)
        adapts = settings.method == "sama"
        self.adaptation = Adaptation(self.optimizer) if adapts else None
        for _ in range(settings.unroll_steps):
            self.optimizer.zero_grad()
            self.loss().backward(inputs=self.weights)  # type: ignore[no-untyped-call]
            self.optimizer.step()

    def loss(self) -> Tensor:
        """Of the base level, a function of weights and meta-weights."""
        logits = self.network(self.support.x)
        centre = list(self.meta.parameters())
        return proximal_loss(logits, self.support.y, self.weights, centre, self._prox)

    # What a problem with one batch offers to the methods of the other paper's library.
    micro_batches: Sequence[Any] = (None,)

    def replayed_loss(self, _batch: Any) -> Tensor:
        """The base level's loss."""
        return self.loss()

    def trainable_parameters(self) -> list[Tensor]:
        """The fitted weights."""
        return self.weights

    meta_trainable_parameters = trainable_parameters

    def warn_once(self, message: str, about: str = "") -> None:
        """Not said: the Hessian of a network is indefinite in many of thousands of fits."""


class MetaWeights:
    """The meta level as those methods see it."""

    name = "meta"

    def __init__(self, network: nn.Module) -> None:
        self._network = network

    def trainable_parameters(self) -> list[Tensor]:
        """The meta-weights."""
        return list(self._network.parameters())


def meta_gradient(settings: FewShot, network: nn.Module, task: Task) -> list[Tensor]:
    """The method's gradient of one task by the parameters of ``network``."""
    fit = Fit(settings, network, task.support)
    params = list(network.parameters())
    x, y = task.query

    def meta_cost() -> Tensor:
        return functional.cross_entropy(fit.network(x), y)

    if settings.method == "reptile":
        return [(p - w).detach() for p, w in zip(params, fit.weights, strict=True)]
    if settings.method == "cg":
        vector = torch.autograd.grad(meta_cost(), fit.weights)
        upper: Any = MetaWeights(network)
        lower: Any = fit
        (found,) = METHODS["cg"](list(vector), lower, [upper], upper)
    else:
        found = hypergradient(
            meta_cost, fit.loss, params, fit.weights, fit.adaptation, alpha=settings.alpha
        )
    return [
        torch.zeros_like(p) if part is None else part for p, part in zip(params, found, strict=True)
    ]


class MetaTraining:
    """Meta-weights and their optimiser."""

    def __init__(self, settings: FewShot, network: nn.Module, tasks: TaskSampler) -> None:
        self.settings, self.network, self.tasks, self.count = settings, network, tasks, 0
        self.optimizer = torch.optim.Adam(network.parameters(), lr=settings.meta_lr)

    def step(self) -> None:
        """One step along the mean over a batch of tasks."""
        self.optimizer.zero_grad()
        params = list(self.network.parameters())
        for number in range(self.settings.tasks):
            task = self.tasks.draw(self.count * self.settings.tasks + number)
            for param, part in zip(
                params, meta_gradient(self.settings, self.network, task), strict=True
            ):
                share = part / self.settings.tasks
                param.grad = share if param.grad is None else param.grad + share
        self.optimizer.step()
        self.count += 1

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimiser and count."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "count": self.count,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.count = state["count"]


def accuracies(settings: FewShot, network: nn.Module, tasks: TaskSampler) -> Iterator[float]:
    """Accuracy (%) on the queries of each test task, after a fit from ``network``."""
    for number in range(settings.test_tasks):
        support, query = tasks.draw(number)
        fit = Fit(settings, network, support)
        with torch.no_grad():
            yield accuracy(fit.network(query.x), query.y)


def run_few_shot(settings: FewShot, run: Run) -> dict[str, float]:
    """Accuracy (%) on tasks of held-out classes, with its standard error over tasks."""
    core = Core(settings.core, run)
    train, test = (part.to(core.device) for part in load_classes(settings, run))
    network = few_shot_net(settings.blocks, settings.channels, settings.pooled, settings.ways)
    network.to(core.device)
    shape = (settings.ways, settings.shots, settings.queries)
    held_out = TaskSampler(test, *shape, seed=mixed(run.seed, 1))
    training = MetaTraining(settings, network, TaskSampler(train, *shape, seed=run.seed))
    core.track(training=training)
    core.restore()

    def evaluate() -> None:
        reached = list(accuracies(settings, network, held_out))
        error = stdev(reached) / len(reached) ** 0.5
        core.log_metrics(step=training.count, accuracy_pct=mean(reached), accuracy_error_pct=error)

    steps = 0 if settings.method == "no_meta" else settings.meta_iterations
    while training.count < steps:
        training.step()
        if training.count % settings.validate_every == 0 or training.count == steps:
            evaluate()
        core.completed_step()
    if not core.history:
        evaluate()
    run.write_rows("history.csv", core.history)
    core.finish()
    last = core.history[-1]
    return {name: last[name] for name in ("accuracy_pct", "accuracy_error_pct")}


PROGRAM = Program(FewShot, run_few_shot)
