"""Facts of SAMA in implicit MAML: a closed form, what equals first-order MAML, resumption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from common.tasks.few_shot import Task, TaskSampler, few_shot_net
from papers.sama.experiments.few_shot import Fit, meta_gradient
from tests.papers.sama.runs import metrics_after_a_stop, metrics_of, settings_of

NAME = "few_shot"


def drawn(method: str, **changes: Any) -> tuple[Any, torch.nn.Module, Task]:
    """Settings, meta-weights and a task, all in float64."""
    settings = settings_of(NAME, "sama", case="adam", method=method, **changes)
    torch.manual_seed(0)
    network = few_shot_net(2, 4, 2, 5).double()
    images = torch.rand(6, 15, 1, 8, 8, dtype=torch.float64)
    return settings, network, TaskSampler(images, 5, 1, 10, seed=0).draw(0)


def first_order(settings: Any, network: torch.nn.Module, task: Task) -> tuple[Fit, list[Any]]:
    """A fit, and the query loss's gradient by its weights."""
    fit = Fit(settings, network, task.support)
    loss = functional.cross_entropy(fit.network(task.query.x), task.query.y)
    return fit, list(torch.autograd.grad(loss, fit.weights))


@pytest.mark.parametrize("base_optimizer", ["sgd", "adam"])
def test_the_hypergradient_is_prox_times_the_adapted_gradient(base_optimizer: str) -> None:
    options: dict[str, Any] = {"prox": 0.7, "base_optimizer": base_optimizer}
    settings, network, task = drawn("sama", **options)
    fit, gradient = first_order(settings, network, task)
    assert fit.adaptation is not None
    wanted = [0.7 * part for part in fit.adaptation(gradient)]
    assert_close(meta_gradient(settings, network, task), wanted, rtol=1e-6, atol=1e-10)


def test_without_adaptation_it_is_first_order_maml() -> None:
    settings, network, task = drawn("sama_na", prox=0.7)
    _, gradient = first_order(settings, network, task)
    found = meta_gradient(settings, network, task)
    assert_close(found, [0.7 * part for part in gradient], rtol=1e-6, atol=1e-10)


def test_conjugate_gradients_solve_the_proximal_problem() -> None:
    """``(H + prox I) s = v`` to the end gives ``prox s``."""
    options: dict[str, Any] = {"prox": 20.0, "cg_iterations": 60}
    settings, network, task = drawn("cg", **options)
    fit, vector = first_order(settings, network, task)
    found = meta_gradient(settings, network, task)
    solution = [part / 20.0 for part in found]
    slope = torch.autograd.grad(fit.loss(), fit.weights, create_graph=True)
    product = torch.autograd.grad(slope, fit.weights, solution)
    assert_close(list(product), vector, rtol=1e-4, atol=1e-8)


def test_reptile_moves_towards_the_fit() -> None:
    settings, network, task = drawn("reptile")
    fit = Fit(settings, network, task.support)
    moved = [
        p.detach() - part
        for p, part in zip(
            network.parameters(), meta_gradient(settings, network, task), strict=True
        )
    ]
    assert_close(moved, [weight.detach() for weight in fit.weights])


def test_the_meta_weights_are_not_moved_by_a_fit() -> None:
    settings, network, task = drawn("sama")
    before = [param.detach().clone() for param in network.parameters()]
    meta_gradient(settings, network, task)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert all(param.grad is None for param in network.parameters())


def test_a_stopped_training_ends_as_one_that_was_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = {"device": "cpu", "precision": "fp32", "global_batch_size": 4, "save_every": 1}
    changes: dict[str, Any] = {"meta_iterations": 4, "validate_every": 2, "test_tasks": 3}
    settings = settings_of(NAME, "sama", case="adam", core=core, tasks=2, **changes)
    whole = metrics_of(NAME, settings, tmp_path / "whole")
    assert metrics_after_a_stop(NAME, settings, tmp_path / "cut", monkeypatch) == whole
