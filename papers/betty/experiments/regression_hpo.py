"""Hyper-parameters of a logistic regression: one L2 penalty for each weight.

The inner problem fits the weights from zero under the penalties; the outer problem moves the
penalties to lower the loss on held-out points. Source: the published package's example and test;
Choe et al. 2023, Sec. 4.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.record import DataIdentity
from common.runs.run import Run
from common.training import Core, CoreSettings
from common.training.saved_tensors import SavedTensors
from papers.betty import Config, Engine, EngineConfig, ImplicitProblem
from papers.betty.configs import Strategy
from papers.betty.tasks.training import choose_strategy, recorded, run_engine


class RegressionSettings(Settings):
    """Data, both optimisers, and how the penalties' gradient is found."""

    core: CoreSettings = CoreSettings(device="cpu", global_batch_size=500)
    method: Literal["darts", "cg", "neumann", "itd"]
    points: int = Field(1000, ge=4, description="half for training, half for validation")
    features: int = Field(20, gt=0)
    noise: float = Field(0.1, ge=0, description="deviation of what is added to x.w before the sign")
    iterations: int = Field(gt=0, description="steps of the weights, over all inner loops")
    unroll_steps: int = Field(100, gt=0)
    lr: float = Field(0.1, gt=0)
    first_penalty: float = Field(1.0, ge=0, description="of every weight, before any outer step")
    meta_lr: float = Field(1.0, gt=0)
    meta_momentum: float = Field(0.9, ge=0)
    least_penalty: float = Field(1e-8, ge=0, description="penalties are clamped to this")
    cg_iterations: int = Field(3, gt=0)
    cg_alpha: float = Field(0.1, gt=0)
    neumann_iterations: int = Field(5, ge=0)


class Points(NamedTuple):
    """Inputs (n, d) and labels (n,), 0 or 1."""

    x: Tensor
    y: Tensor


class RegressionData(NamedTuple):
    """Training and validation points."""

    train: Points
    validation: Points


def run_regression_hpo(settings: RegressionSettings, run: Run) -> dict[str, float]:
    """Validation loss with the first and with the last penalties, time (s), memory (bytes)."""
    core = Core(settings.core, run)
    run.uses(
        DataIdentity.generated(
            f"{settings.points} points of a linear rule in {settings.features} dimensions", run.seed
        )
    )
    data = draw(settings, run.seed)
    engine = program(settings, data, choose_strategy(core, divisible=False))
    held_out = Points(*(part.to(core.device) for part in data.validation))

    def evaluate() -> dict[str, float]:
        return {"loss": float(cross_entropy(engine.problem("weights")(), held_out))}

    history = run_engine(engine, core, evaluate, settings.unroll_steps)
    run.write_rows("history.csv", history.rows)
    core.finish()
    return {
        "start_loss": history.rows[0]["loss"],
        "final_loss": history.rows[-1]["loss"],
        "train_s": history.seconds,
        "saved_bytes": float(meta_step_bytes(settings, data)),
    }


def draw(
    settings: RegressionSettings, seed: int, dtype: torch.dtype = torch.float32
) -> RegressionData:
    """Normal points, labelled by the sign of a noisy linear rule."""
    generator = torch.Generator().manual_seed(seed)
    count, size = settings.points, settings.features
    rule = torch.randn(size, generator=generator, dtype=dtype)
    x = torch.randn(count, size, generator=generator, dtype=dtype)
    noise = settings.noise * torch.randn(count, generator=generator, dtype=dtype)
    points = Points(x, (x @ rule + noise > 0).to(dtype))
    half = count // 2
    return RegressionData(
        Points(*(part[:half] for part in points)), Points(*(part[half:] for part in points))
    )


class Coefficients(nn.Module):
    """A vector of parameters; calling it gives the vector."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(start)

    def forward(self) -> Tensor:
        """(d,) values."""
        return self.values


def cross_entropy(weights: Tensor, points: Points) -> Tensor:
    """Mean loss of a linear classifier."""
    return functional.binary_cross_entropy_with_logits(points.x @ weights, points.y)


class Weights:
    """Inner problem: cross-entropy of the training points, and the penalties on the weights."""

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Penalised mean loss."""
        weights: Tensor = self()  # type: ignore[operator]
        penalty: Tensor = 0.5 * (self.penalties() * weights.square()).sum()  # type: ignore[attr-defined]
        return cross_entropy(weights, Points(*batch)) + penalty

    def on_inner_loop_start(self) -> None:
        """Every loop starts from zero, so that its end is a function of the penalties alone."""
        nn.init.zeros_(self.module.values)  # type: ignore[attr-defined]


class ImplicitWeights(Weights, ImplicitProblem):
    """Differentiated implicitly."""


class Penalties(ImplicitProblem):
    """Outer problem: cross-entropy of the validation points."""

    least = 0.0

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean loss of the weights that the inner problem found."""
        return cross_entropy(self.weights(), Points(*batch))  # type: ignore[attr-defined]

    def param_callback(self) -> None:
        """Negative penalties would leave the inner problem without an optimum."""
        with torch.no_grad():
            self.module.values.clamp_(min=self.least)


def program(
    settings: RegressionSettings, data: RegressionData, strategy: Strategy = "cpu"
) -> Engine:
    """The bilevel program, in the precision of the data."""
    start = Coefficients(data.train.x.new_zeros(settings.features))
    kind = recorded(Weights) if settings.method == "itd" else ImplicitWeights
    weights = kind(
        "weights",
        Config(
            type=settings.method,
            unroll_steps=settings.unroll_steps,
            cg_iterations=settings.cg_iterations,
            cg_alpha=settings.cg_alpha,
            neumann_iterations=settings.neumann_iterations,
        ),
        start,
        torch.optim.SGD(start.parameters(), lr=settings.lr),
        train_data_loader=[data.train],
    )
    first = torch.full_like(start.values.detach(), settings.first_penalty)
    module = Coefficients(first)
    penalties = Penalties(
        "penalties",
        Config(),
        module,
        torch.optim.SGD(module.parameters(), settings.meta_lr, settings.meta_momentum),
        train_data_loader=[data.validation],
    )
    penalties.least = settings.least_penalty
    config = EngineConfig(train_iters=settings.iterations, strategy=strategy)
    dependencies = {"u2l": {"penalties": ["weights"]}, "l2u": {"weights": ["penalties"]}}
    return Engine([penalties, weights], config, dependencies)


def meta_step_bytes(settings: RegressionSettings, data: RegressionData) -> int:
    """Most bytes kept for backward passes over one inner loop and its meta step."""
    engine = program(settings, data)
    engine.train()
    with SavedTensors().watched() as saved:
        for _ in range(settings.unroll_steps):
            engine.train_step()
        return saved.peak_bytes


PROGRAM = Program(RegressionSettings, run_regression_hpo)
