"""Facts of the comparison with the derivative through an optimiser's own step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from common.errors import InputError
from common.tasks.weak_supervision import load_weak
from papers.sama.experiments.adaptation_effect import WeightedTraining
from papers.sama.methods.optimizers import (
    AnyOptimizer,
    Moment,
    by_differences,
    clipped,
    through_step,
)
from tests.papers.sama.runs import metrics_after_a_stop, metrics_of, opened, settings_of

NAME = "adaptation_effect"


def quadratic(**options: Any) -> tuple[Moment, Any, Any, Tensor]:
    """An optimiser after three steps, a base gradient linear in the parameters, a meta cost."""
    generator = torch.Generator().manual_seed(0)
    by = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    clip = options.pop("clip", None)
    settings = AnyOptimizer(lr=0.1, **options)
    weights = [torch.randn(6, generator=generator, dtype=torch.float64).requires_grad_()]
    optimizer = settings.make(weights)
    for _ in range(3):
        weights[0].grad = torch.randn(6, generator=generator, dtype=torch.float64)
        optimizer.step()
    params = torch.randn(4, generator=generator, dtype=torch.float64)

    def gradient(_weights: Any, given: Tensor) -> list[Tensor]:
        return [by @ given]

    def meta_cost(values: Any) -> Tensor:
        return (values[0] - 1).square().sum()

    return Moment(settings, weights, optimizer, clip), gradient, meta_cost, params


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "sgd", "momentum": 0.9, "nesterov": True},
        {"kind": "adam", "weight_decay": 0.1},
        {"kind": "adam", "clip": 0.5},
        {"kind": "rmsprop", "centered": True},
    ],
    ids=str,
)
def test_autograd_through_the_step_and_differences_of_it_agree(options: dict[str, Any]) -> None:
    problem = quadratic(**options)
    assert_close(through_step(*problem), by_differences(*problem), rtol=1e-6, atol=1e-9)


def test_a_step_from_the_moment_is_that_of_the_optimiser_and_leaves_the_moment_alone() -> None:
    moment, gradient, _, params = quadratic(kind="adam")
    first, again = (moment.step(gradient(None, params)) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], moment.weights[0])


def test_clipping_is_that_of_torch() -> None:
    grads = [torch.randn(3, 4), torch.randn(5)]
    params = [torch.zeros_like(grad).requires_grad_() for grad in grads]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad.clone()
    torch.nn.utils.clip_grad_norm_(params, 0.7)
    assert_close(clipped(grads, 0.7), [param.grad for param in params])
    assert_close(clipped(grads, 100.0), grads)


@pytest.mark.parametrize("arm", ["sgd", "momentum"])
def test_with_a_diagonal_of_one_number_the_adaptation_changes_nothing(
    arm: str, tmp_path: Path
) -> None:
    found = metrics_of(NAME, settings_of(NAME, arm, case="plain"), tmp_path)
    assert found["sama_cosine"] == pytest.approx(found["sama_na_cosine"], abs=1e-9)


@pytest.mark.parametrize("arm", ["adam_clipped", "rmsprop", "adafactor"])
def test_the_adapted_gradient_is_closer_to_that_of_the_step(arm: str, tmp_path: Path) -> None:
    found = metrics_of(NAME, settings_of(NAME, arm, case="scaled", steps=20), tmp_path)
    assert found["least_sama_cosine"] > 0.98
    assert found["sama_cosine"] > found["sama_na_cosine"] + 0.005


def test_the_clip_is_active_in_its_arm(tmp_path: Path) -> None:
    settings = settings_of(NAME, "adam_clipped", case="plain")
    with opened(NAME, settings, tmp_path) as run:
        training = WeightedTraining(settings, load_weak(settings, run), 0)
    for _ in range(settings.steps):
        training.step(False)
    x, y = training.train
    cost = torch.nn.functional.cross_entropy(training.network(x[:64]), y[:64])
    grads = torch.autograd.grad(cost, list(training.network.parameters()))
    assert sum(float(g.square().sum()) for g in grads) ** 0.5 > settings.clip_norm


def test_a_stopped_comparison_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = {"device": "cpu", "precision": "fp32", "global_batch_size": 64, "save_every": 9}
    settings = settings_of(NAME, "adam", case="plain", core=core)
    whole = metrics_of(NAME, settings, tmp_path / "whole")
    assert metrics_after_a_stop(NAME, settings, tmp_path / "cut", monkeypatch) == whole


def test_an_optimiser_without_a_rule_is_refused_with_those_that_have_one() -> None:
    with pytest.raises(InputError, match=r"optimizer\.kind.*'adam'.*'rprop'"):
        settings_of(NAME, "adam", case="plain", optimizer={"kind": "rprop", "lr": 0.1})
