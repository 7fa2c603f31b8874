"""What the identity in the place of the inverse base Jacobian costs, where the truth is known.

Base level: ridge regression towards ``lambda``, ``|A w - y|^2 / (2n) + beta |w - lambda|^2 / 2``,
solved in closed form; meta level: the fit to other points. The exact meta gradient
is ``beta (A'A/n + beta I)^-1 dL_meta/dw``; with the identity it is ``beta dL_meta/dw``.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.record import DataIdentity
from common.runs.run import Run
from papers.sama import hypergradient


class IdentityApproximation(Settings):
    """The problem, and the descent on its meta level."""

    method: Literal["exact", "identity"]
    points: int = Field(100, gt=0, description="of each level")
    features: int = Field(20, gt=0)
    noise: float = Field(0.1, ge=0, description="deviation of what is added to the targets")
    penalty: float = Field(0.1, gt=0, description="beta")
    steps: int = Field(gt=0, description="meta steps")
    lr: float = Field(1.0, gt=0, description="of the meta steps, plain descent")


class BiasedRegression:
    """Both levels, in float64. ``A``, ``y`` are the base level's points."""

    def __init__(self, settings: IdentityApproximation, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.penalty = settings.penalty
        truth = normal(settings.features)
        # The base level's own truth is another, so that lambda matters.
        self.x, self.meta_x = (normal(settings.points, settings.features) for _ in range(2))
        shifted = truth + normal(settings.features)
        self.y = self.x @ shifted + settings.noise * normal(settings.points)
        self.meta_y = self.meta_x @ truth
        eye = torch.eye(settings.features, dtype=torch.float64)
        self.hessian = self.x.T @ self.x / settings.points + self.penalty * eye

    def solve(self, bias: Tensor) -> Tensor:
        """The base level's optimum."""
        right = self.x.T @ self.y / len(self.y) + self.penalty * bias
        optimum: Tensor = torch.linalg.solve(self.hessian, right)
        return optimum

    def base_cost(self, weights: Tensor, bias: Tensor) -> Tensor:
        fit = (self.x @ weights - self.y).square().mean() / 2
        return fit + self.penalty * (weights - bias).square().sum() / 2

    def meta_cost(self, weights: Tensor) -> Tensor:
        return (self.meta_x @ weights - self.meta_y).square().mean() / 2

    def exact(self, bias: Tensor) -> Tensor:
        """The meta gradient through the closed form."""
        bias = bias.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(self.meta_cost(self.solve(bias)), bias)
        return gradient

    def identity(self, bias: Tensor) -> Tensor:
        """The library's, with neither solve nor adaptation."""
        weights = self.solve(bias).requires_grad_()
        bias = bias.clone().requires_grad_()
        (gradient,) = hypergradient(
            lambda: self.meta_cost(weights),
            lambda: self.base_cost(weights, bias),
            [bias],
            [weights],
        )
        assert gradient is not None
        return gradient


def run_identity_approximation(settings: IdentityApproximation, run: Run) -> dict[str, float]:
    """Descend, and return cosines of the method to the exact meta gradient and meta losses."""
    run.uses(
        DataIdentity.generated(
            f"two regressions of {settings.points} points in {settings.features} dimensions",
            run.seed,
        )
    )
    problem = BiasedRegression(settings, run.seed)
    bias = torch.zeros(settings.features, dtype=torch.float64)
    rows = []
    for step in range(settings.steps + 1):
        loss = float(problem.meta_cost(problem.solve(bias)))
        exact = problem.exact(bias)
        taken = exact if settings.method == "exact" else problem.identity(bias)
        cosine = float(torch.nn.functional.cosine_similarity(taken, exact, dim=0))
        rows.append({"step": float(step), "meta_loss": loss, "cosine": cosine})
        bias = bias - settings.lr * taken
    run.write_rows("history.csv", rows)
    cosines = [row["cosine"] for row in rows]
    return {
        "cosine": cosines[0],
        "least_cosine": min(cosines),
        "start_meta_loss": rows[0]["meta_loss"],
        "final_meta_loss": rows[-1]["meta_loss"],
    }


PROGRAM = Program(IdentityApproximation, run_identity_approximation)
