"""Auxiliary losses, reweighted for a main task with few labels: Table 3.

``L = L_main + mean_j w_j L_aux,j`` with ``w_j`` a function of the loss ``L_aux,j`` that is learned
such that training along L does well on the main task's training data. Source: Choe et al. 2023,
Table 3, and code for it that is attributed to the authors.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.run import Run
from common.training import Core, CoreSettings
from common.training.data_order import mixed
from papers.sama.methods.bilevel import BaseOptimizer, Bilevel, Constant, MetaSettings
from papers.sama.methods.weighting import LossWeights
from papers.sama.tasks.auxiliary import AuxiliaryTask, Sizes
from papers.sama.tasks.auxiliary_digits import AuxiliaryDigits, DigitsSettings
from papers.sama.tasks.masked_texts import TextSettings, small_task
from papers.sama.tasks.roberta_texts import RobertaSettings, roberta_task

#: Losses at which the learned function is written down.
GRID: Final = tuple(0.5 * place for place in range(25))


class AuxiliaryReweighting(Settings):
    """Tasks, losses, optimisers. One of ``digits``, ``texts`` and ``roberta``."""

    core: CoreSettings
    digits: DigitsSettings | None = None
    texts: TextSettings | None = None
    roberta: RobertaSettings | None = None
    method: Literal["main_only", "pretrain", "constant", "learned"] = Field(
        description="auxiliary losses: none; alone, before the main ones; weighted by 1; by a"
        " network"
    )
    optimizer: BaseOptimizer
    meta: MetaSettings
    meta_eps: float = Field(1e-8, gt=0, description="of the weight network's Adam")
    hidden: int = Field(100, gt=0, description="width of the weight network")
    unit: Literal["steps", "epochs"] = Field("steps", description="of the two below")
    steps: int = Field(gt=0, description="base steps; so many before them for `pretrain`")
    evaluate_every: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    auxiliary_batch_size: int = Field(gt=0)
    meta_batch_size: int = Field(gt=0)
    meta_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the labelled data that only the meta level reads; 0:"
        " it reads the main task's training data, as in the paper",
    )
    average: Literal["micro", "macro"] = Field("micro", description="of F1 over classes")

    @model_validator(mode="after")
    def _check(self) -> AuxiliaryReweighting:
        if [self.digits, self.texts, self.roberta].count(None) != 2:
            raise ValueError("digits, texts, roberta: allowed: one of them")
        return self


class Training:
    """One or two stages over one network, and the step at which each batch is drawn."""

    def __init__(self, settings: AuxiliaryReweighting, task: AuxiliaryTask) -> None:
        self.settings, self.task = settings, task
        each = task.steps_per_epoch if settings.unit == "epochs" else 1
        self.steps, self.evaluate_every = each * settings.steps, each * settings.evaluate_every
        self.weights = LossWeights(hidden=settings.hidden)
        learned = settings.method == "learned"
        device = next(task.network.parameters()).device
        meta = (self.weights.to(device), settings.meta) if learned else (None, None)

        def stage(*meta: Any) -> Bilevel:
            return Bilevel(task.network, settings.optimizer, self.steps, *meta)

        self.before = stage() if settings.method == "pretrain" else None
        self.main = stage(*meta)
        if learned:
            for group in self.main.meta_optimizer.param_groups:
                group["eps"] = settings.meta_eps

    def state_dict(self) -> dict[str, Any]:
        """Of both stages."""
        state = {"main": self.main.state_dict()}
        if self.before is not None:
            state["before"] = self.before.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`."""
        if self.before is not None:
            self.before.load_state_dict(state["before"])
        self.main.load_state_dict(state["main"])

    @property
    def in_main_stage(self) -> bool:
        """Whether the auxiliary losses have had their steps, where they come first."""
        return self.before is None or self.before.count >= self.steps

    def step(self) -> None:
        """The next step of the present stage."""
        if not self.in_main_stage:
            assert self.before is not None
            batch = self.task.auxiliary_batch(self.before.count)
            self.before.step(lambda: self.task.auxiliary_losses(batch).mean())
            return
        number = self.main.count
        self.main.step(self._cost_at(number), lambda: self.task.meta_cost(number))

    def _cost_at(self, number: int) -> Any:
        if self.settings.method in ("main_only", "pretrain"):
            return lambda: self.task.main_cost(number)
        batch, seen = self.task.auxiliary_batch(number), Constant()

        def cost() -> Tensor:
            losses = self.task.auxiliary_losses(batch)
            weighted = losses
            if self.settings.method == "learned":
                weighted = self.weights(seen(losses)) * losses
            return self.task.main_cost(number) + weighted.mean()

        return cost


def load_task(settings: AuxiliaryReweighting, run: Run, device: torch.device) -> AuxiliaryTask:
    """Data and network."""
    sizes = Sizes(
        settings.batch_size,
        settings.meta_batch_size,
        settings.auxiliary_batch_size,
        settings.meta_share,
    )
    if settings.digits is not None:
        return AuxiliaryDigits(settings.digits, run, sizes, device)
    if settings.texts is not None:
        return small_task(settings.texts, run, sizes, device)
    assert settings.roberta is not None
    return roberta_task(settings.roberta, run, sizes, device)


def run_auxiliary_reweighting(settings: AuxiliaryReweighting, run: Run) -> dict[str, float]:
    """Test F1 (%) at the best validation, or at the end without one, and mean weights."""
    core = Core(settings.core, run)
    task = load_task(settings, run, core.device)
    training = Training(settings, task)
    core.track(training=training)
    core.restore()
    # All methods draw the same dropout masks, however many numbers their making took.
    if core.step_count == 0:
        torch.manual_seed(mixed(run.seed, 4))
    while training.main.count < training.steps:
        task.network.train()
        training.step()
        number = training.main.count
        due = number % training.evaluate_every == 0 or number == training.steps
        if number and due:
            core.log_metrics(**evaluate(training))
        core.completed_step()
    rows = core.history
    run.write_rows("history.csv", rows)
    core.finish()
    best = rows[-1]
    if "validation_f1_pct" in best:
        best = max(rows, key=lambda row: row["validation_f1_pct"])  # the first of equal ones
        metrics = {"validation_f1_pct": best["validation_f1_pct"], "best_step": best["step"]}
    else:
        metrics = {}
    metrics |= {name: best[name] for name in ("f1_pct", "micro_f1_pct", "macro_f1_pct")}
    metrics |= {"last_f1_pct": rows[-1]["f1_pct"]}
    if settings.method == "learned":
        task.network.eval()
        with torch.no_grad():
            metrics |= task.weight_metrics(training.weights)
            grid = torch.tensor(GRID, device=core.device)
            pairs = zip(GRID, training.weights(grid).tolist(), strict=True)
            run.write_rows("weights.csv", [{"loss": x, "weight": y} for x, y in pairs])
    return metrics


@torch.no_grad()
def evaluate(training: Training) -> dict[str, float]:
    """Scores at a step, and the mean weight so far."""
    training.task.network.eval()
    validation, test = training.task.scores()
    average = training.settings.average
    row = {
        "step": float(training.main.count),
        "f1_pct": getattr(test, average),
        "micro_f1_pct": test.micro,
        "macro_f1_pct": test.macro,
    }
    if validation is not None:
        row["validation_f1_pct"] = getattr(validation, average)
    if training.settings.method == "learned":
        row["mean_weight"] = training.task.weight_metrics(training.weights)["mean_weight"]
    return row


PROGRAM = Program(AuxiliaryReweighting, run_auxiliary_reweighting)
