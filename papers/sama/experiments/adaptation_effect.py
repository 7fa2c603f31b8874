"""What the adaptation to the base optimiser adds to a hypergradient, optimiser by optimiser.

The meta parameters are weights of the samples of a batch. While a network is trained on it and
others, SAMA's hypergradient and that without adaptation are compared to the derivative through the
optimiser's own last step, which autograd takes. All in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from common.runs.programs import Program
from common.runs.run import Run
from common.tasks.networks import mlp
from common.tasks.scores import accuracy
from common.tasks.weak_supervision import WeakData, WeakSettings, load_weak
from common.training import Core, CoreSettings
from common.training.data_order import EpochOrder
from papers.sama import Adaptation, hypergradient
from papers.sama.methods.optimizers import AnyOptimizer, Moment, by_differences, through_step

#: What is compared to the exact one: whether adapted, and the length of the shift.
COMPARED: Final = ("sama", "sama_na", "long_sama", "long_sama_na")


class AdaptationEffect(WeakSettings):
    """Data, network, optimiser, and where hypergradients are compared."""

    core: CoreSettings = CoreSettings(global_batch_size=64)
    spread: float = Field(
        0.0, ge=0, description="features are scaled by 10^u, u uniform over this many decades"
    )
    hidden: int = Field(128, gt=0)
    batch_size: int = Field(64, gt=0)
    optimizer: AnyOptimizer
    clip_norm: float | None = Field(None, gt=0, description="largest gradient norm")
    steps: int = Field(gt=1)
    first: int = Field(gt=1, description="step of the first comparison")
    every: int = Field(gt=0, description="steps between comparisons")
    short_alpha: float = Field(0.01, gt=0)
    long_alpha: float = Field(1.0, gt=0)


class WeightedTraining:
    """A network, trained on batches whose samples have weights of 1."""

    def __init__(self, settings: AdaptationEffect, data: WeakData, seed: int) -> None:
        self.settings = settings
        scale = torch.ones(data.train.x.shape[1], dtype=torch.float64)
        if settings.spread:
            # Three quarters of the decades lie below 1, as in the specification's problem.
            draw = np.random.default_rng((seed, 1)).random(len(scale))
            scale = torch.from_numpy(10 ** (settings.spread * (draw - 0.75)))
        self.train, self.meta, self.test = (
            (part.x.double() * scale, part.y) for part in (data.train, data.meta, data.test)
        )
        self.network = mlp(len(scale), settings.hidden, data.classes).double()
        self.params = dict(self.network.named_parameters())
        self.optimizer = settings.optimizer.make(list(self.network.parameters()))
        self.adaptation = Adaptation(self.optimizer)
        self._order = EpochOrder(len(self.train[0]), settings.batch_size, seed=seed)
        self.count = 0

    def state_dict(self) -> dict[str, object]:
        """Network, optimiser and position."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "count": self.count,
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Inverse of :meth:`state_dict`."""
        self.network.load_state_dict(state["network"])  # type: ignore[arg-type]
        self.optimizer.load_state_dict(state["optimizer"])  # type: ignore[arg-type]
        self.count = int(state["count"])  # type: ignore[call-overload]

    def step(self, compare: bool) -> dict[str, float] | None:
        """One step; the cosines of what is compared to the exact hypergradient, if asked for."""
        epoch, place = divmod(self.count, self._order.steps_per_epoch)
        rows = torch.tensor(next(self._order.batches(epoch, place)))
        x, y = (part[rows] for part in self.train)
        weights = torch.ones(len(rows), dtype=torch.float64)
        before = self._moment() if compare else None
        self._base_cost(weights, x, y).backward()  # type: ignore[no-untyped-call]
        if self.settings.clip_norm is not None:
            self.adaptation.clip_grad_norm_(self.settings.clip_norm)
        self.optimizer.step()
        found = self._compare(before, weights, x, y) if before else None
        self.optimizer.zero_grad()
        self.count += 1
        return found

    def _moment(self) -> Moment:
        settings = self.settings
        return Moment(
            settings.optimizer, list(self.params.values()), self.optimizer, settings.clip_norm
        )

    def _base_cost(self, weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return (weights * functional.cross_entropy(self.network(x), y, reduction="none")).mean()

    def _meta_cost(self) -> Tensor:
        x, y = self.meta
        return functional.cross_entropy(self.network(x), y)

    def _compare(self, before: Moment, weights: Tensor, x: Tensor, y: Tensor) -> dict[str, float]:
        exact = self.exact(before, weights, x, y)
        settings, params = self.settings, list(self.params.values())
        found = {}
        for name in COMPARED:
            alpha = settings.long_alpha if name.startswith("long") else settings.short_alpha
            adaptation = None if name.endswith("na") else self.adaptation
            meta = weights.clone().requires_grad_()
            (gradient,) = hypergradient(
                self._meta_cost,
                lambda meta=meta: self._base_cost(meta, x, y),  # type: ignore[misc]
                [meta],
                params,
                adaptation,
                alpha=alpha,
            )
            assert gradient is not None
            found[f"{name}_cosine"] = float(functional.cosine_similarity(gradient, exact, dim=0))
        return found

    def exact(self, before: Moment, weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
        """Derivative of the meta cost by the samples' weights through the step from ``before``."""
        names = list(self.params)

        def losses(values: Sequence[Tensor], rows: Tensor, labels: Tensor) -> Tensor:
            named = dict(zip(names, values, strict=True))
            logits = functional_call(self.network, named, (rows,))
            return functional.cross_entropy(logits, labels, reduction="none")

        def gradient(values: Sequence[Tensor], each: Tensor) -> Sequence[Tensor]:
            cost = (each * losses(values, x, y)).mean()
            return torch.autograd.grad(cost, list(values), create_graph=each.requires_grad)

        def meta_cost(values: Sequence[Tensor]) -> Tensor:
            return losses(values, *self.meta).mean()

        differentiable = self.settings.optimizer.differentiable
        return (through_step if differentiable else by_differences)(
            before, gradient, meta_cost, weights
        )


def run_adaptation_effect(settings: AdaptationEffect, run: Run) -> dict[str, float]:
    """Mean and least cosines to the exact hypergradient, and the test accuracy (%) at the end."""
    core = Core(settings.core, run)
    training = WeightedTraining(settings, load_weak(settings, run), run.seed)
    core.track(training=training)
    core.restore()
    while training.count < settings.steps:
        number = training.count + 1
        due = number >= settings.first and (number - settings.first) % settings.every == 0
        found = training.step(due)
        if found is not None:
            core.log_metrics(step=number, **found)
        core.completed_step()
    rows = core.history
    run.write_rows("cosines.csv", rows)
    core.finish()
    metrics = {}
    for name in COMPARED:
        values = [row[f"{name}_cosine"] for row in rows]
        metrics[f"{name}_cosine"] = sum(values) / len(values)
        metrics[f"least_{name}_cosine"] = min(values)
    with torch.no_grad():
        x, y = training.test
        metrics["accuracy_pct"] = accuracy(training.network(x), y)
    return metrics


PROGRAM = Program(AdaptationEffect, run_adaptation_effect)
