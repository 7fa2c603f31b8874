"""Facts of the regression's penalties: their gradient, and that every method lowers the loss."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

from common.experiments.schema import RunKey
from common.runs.run import Run
from papers.betty.experiments.regression_hpo import (
    RegressionData,
    RegressionSettings,
    draw,
    program,
    run_regression_hpo,
)
from tests.papers.betty.programs import hypergradient_of

METHODS = ("darts", "cg", "neumann", "itd")


def settings_of(method: str, **other: object) -> RegressionSettings:
    """Settings of a small regression."""
    small = {"points": 200, "features": 6, "iterations": 400, "unroll_steps": 20}
    return RegressionSettings.model_validate({"method": method, **small, **other})


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """A run that writes to a temporary folder."""
    key = RunKey("betty", "regression_hpo", "linear_rule", "test", 3, "smoke")
    with Run(key, "regression_hpo", settings_of("itd"), tmp_path / "out", tmp_path / "work") as it:
        yield it


def loss_after_a_loop(data: RegressionData, penalties: Tensor, steps: int) -> float:
    """Validation loss after gradient descent from zero, written out without the library."""
    weights = torch.zeros_like(penalties, requires_grad=True)
    for _ in range(steps):
        loss = functional.binary_cross_entropy_with_logits(data.train.x @ weights, data.train.y)
        (grad,) = torch.autograd.grad(loss + (penalties * weights**2).sum() / 2, weights)
        weights = (weights - 0.1 * grad).detach().requires_grad_()
    reached = data.validation.x @ weights.detach()
    return float(functional.binary_cross_entropy_with_logits(reached, data.validation.y))


@pytest.mark.parametrize("loops", [1, 3])
def test_the_gradient_through_the_steps_is_that_of_the_whole_inner_loop(loops: int) -> None:
    """Also in later loops, which start again from zero."""
    settings = settings_of("itd", unroll_steps=20, meta_lr=1e-9, meta_momentum=0.0)
    data = draw(settings, 0, torch.float64)
    engine = program(settings, data)
    penalties = engine.problem("penalties")
    for _ in range((loops - 1) * 20 + 19):
        engine.train_step()
    found = hypergradient_of(penalties)
    start = torch.ones(6, dtype=torch.float64)
    wanted = torch.stack(
        [
            torch.tensor(
                loss_after_a_loop(data, start + e, 20) - loss_after_a_loop(data, start - e, 20)
            )
            / 2e-5
            for e in 1e-5 * torch.eye(6, dtype=torch.float64)
        ]
    )
    assert_close(found, wanted.to(found), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_lowers_the_validation_loss(method: str, run: Run) -> None:
    metrics = run_regression_hpo(settings_of(method), run)
    assert metrics["final_loss"] < metrics["start_loss"] - 0.02


def test_the_same_seed_gives_the_same_numbers(run: Run) -> None:
    first, second = (run_regression_hpo(settings_of("cg"), run) for _ in range(2))
    timed = {"train_s"}
    assert {k: first[k] for k in first.keys() - timed} == {
        k: second[k] for k in second.keys() - timed
    }


def test_penalties_stay_above_their_least_value() -> None:
    settings = settings_of("itd", meta_lr=1e4, least_penalty=1e-3)
    engine = program(settings, draw(settings, 0))
    engine.run()
    penalties = engine.problem("penalties")().detach()
    assert float(penalties.min()) == pytest.approx(1e-3)


def test_memory_grows_with_the_steps_where_they_are_recorded_and_nowhere_else(run: Run) -> None:
    few, many = (
        {
            method: run_regression_hpo(
                settings_of(method, unroll_steps=steps, iterations=steps), run
            )["saved_bytes"]
            for method in METHODS
        }
        for steps in (5, 40)
    )
    assert many["itd"] > 2 * few["itd"]
    assert {m: many[m] for m in METHODS[:3]} == {m: few[m] for m in METHODS[:3]}
