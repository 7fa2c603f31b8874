"""Facts of SAMA in a loop: what a meta step adds, replays, leaves, and refuses."""

from __future__ import annotations

import copy
import gc
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import SGD, Adam
from torch.testing import assert_close

from common.errors import InputError
from papers.sama import SAMA, Adaptation, hypergradient
from tests.papers.sama.quadratics import Quadratic


def adam(params: Any) -> torch.optim.Optimizer:
    return Adam(params, lr=0.1)


def test_a_meta_step_adds_the_hypergradient_to_grad() -> None:
    program = Quadratic(adam)
    sama = SAMA(program.base, program.meta, program.adaptation)
    (wanted,) = hypergradient(
        program.meta_cost, program.base_cost, [program.l], adaptation=program.adaptation
    )
    assert wanted is not None
    program.l.grad = torch.ones_like(program.l)
    grads = [program.w.grad]
    value = sama.backward(program.meta_cost, program.base_cost)
    assert_close(program.l.grad, 1 + wanted, rtol=1e-10, atol=1e-10)
    assert_close(value, program.meta_cost().detach())
    assert program.w.grad is grads[0]


def test_a_step_serves_once_unless_it_is_kept() -> None:
    program = Quadratic(adam)
    sama = SAMA(program.base, program.meta, program.adaptation)
    costs = program.meta_cost, program.base_cost
    program.meta.zero_grad()  # base steps left theirs
    sama.backward(*costs, keep=True)
    assert program.l.grad is not None
    once = program.l.grad.clone()
    sama.backward(*costs)
    assert_close(program.l.grad, 2 * once, rtol=1e-12, atol=1e-12)
    with pytest.raises(InputError, match="no step of the base optimiser is at hand"):
        sama.backward(*costs)


def test_three_backward_passes_and_no_graph_of_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    program = Quadratic(adam)
    sama = SAMA(program.base, program.meta, program.adaptation)
    passes: list[bool] = []

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            passes.append(bool(kwargs.get("create_graph", False)))
            return function(*args, **kwargs)

        return call

    monkeypatch.setattr(torch.autograd, "grad", counted(torch.autograd.grad))
    monkeypatch.setattr(torch.autograd, "backward", counted(torch.autograd.backward))
    sama.backward(program.meta_cost, program.base_cost)
    assert passes == [False] * 3


class Noisy(nn.Module):
    """Dropout and batch normalisation before a linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x)
        return found


def noisy() -> tuple[Noisy, nn.Linear, Callable[[], Tensor], Callable[[], Tensor]]:
    """(base, meta, meta cost, base cost) in float64."""
    torch.manual_seed(0)
    base, meta = Noisy().double(), nn.Linear(4, 1).double()
    x, y = torch.randn(8, 4).double(), torch.randn(8, 1).double()
    return (
        base,
        meta,
        lambda: mse_loss(base(x), y),
        lambda: (meta(x).exp() * (base(x) - y).square()).mean(),
    )


def test_passes_at_moved_weights_have_the_same_dropout_and_leave_buffers_alone() -> None:
    base, meta, meta_cost, base_cost = noisy()
    sama = SAMA(base, meta, alpha=1e-4)
    buffers = {name: buffer.clone() for name, buffer in base.named_buffers()}
    seen: list[dict[str, Tensor]] = []
    states: list[Tensor] = []

    def watched() -> Tensor:
        states.append(torch.get_rng_state())
        cost = base_cost()
        seen.append({name: buffer.clone() for name, buffer in base.named_buffers()})
        return cost

    def of_evaluation() -> Tensor:
        base.eval()
        cost = meta_cost()
        base.train()
        return cost

    sama.backward(of_evaluation, watched)
    assert len(states) == 4  # two to compare, two at moved weights
    assert all(torch.equal(state, states[0]) for state in states)
    assert all(int(each["layers.1.num_batches_tracked"]) == 1 for each in seen)
    assert_close(dict(base.named_buffers()), buffers, rtol=0, atol=0)
    assert meta.weight.grad is not None
    # Other masks would make a difference of the order of the cost, over 2 eps.
    assert float(meta.weight.grad.abs().max()) < 100


def test_a_base_cost_on_another_batch_each_time_is_refused() -> None:
    program = Quadratic(adam)
    batches = iter(range(1, 9))
    sama = SAMA(program.base, program.meta, program.adaptation)
    with pytest.raises(InputError, match="again at the same weights"):
        sama.backward(program.meta_cost, lambda: program.base_cost() * next(batches))


def test_parameters_are_those_that_require_a_gradient_now() -> None:
    program = Quadratic(adam)
    sama = SAMA(program.base, program.meta, program.adaptation)
    costs = program.meta_cost, program.base_cost
    program.l.requires_grad_(False)
    with pytest.raises(InputError, match="no parameter that requires a gradient"):
        sama.backward(*costs)
    program.l.requires_grad_()
    sama.backward(*costs, keep=True)
    program.w.requires_grad_(False)
    with pytest.raises(InputError, match="requires no gradient"):
        sama.backward(*costs)


def test_a_last_pass_that_fails_leaves_grad_as_it_was() -> None:
    program = Quadratic(adam)
    sama = SAMA(program.base, program.meta, program.adaptation)
    calls = iter(range(9))

    def fails() -> Tensor:
        if next(calls) == 3:
            raise RuntimeError("out of memory")
        return program.base_cost()

    program.l.grad = torch.ones_like(program.l)
    with pytest.raises(RuntimeError, match="out of memory"):
        sama.backward(program.meta_cost, fails, keep=True)
    assert torch.equal(program.l.grad, torch.ones_like(program.l))
    program.l.grad = None
    calls = iter(range(2, 9))
    with pytest.raises(RuntimeError, match="out of memory"):
        sama.backward(program.meta_cost, fails, keep=True)
    assert program.l.grad is None


def test_a_base_cost_that_is_not_finite_is_said_to_be() -> None:
    program = Quadratic(adam)
    sama = SAMA(program.base, program.meta, program.adaptation)
    with pytest.raises(InputError, match="allowed: a finite cost"):
        sama.backward(program.meta_cost, lambda: program.base_cost() * torch.nan)


def test_bad_settings_are_refused() -> None:
    program = Quadratic(adam)
    with pytest.raises(InputError, match="alpha"):
        SAMA(program.base, program.meta, program.adaptation, alpha=0.0)
    with pytest.raises(InputError, match="weights differ"):
        SAMA(program.base, program.meta, program.adaptation, weights=[program.l])


def test_a_shift_that_is_rounded_away_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    base, meta = nn.Linear(4, 1).bfloat16(), nn.Linear(4, 1).bfloat16()
    x = torch.randn(8, 4).bfloat16()
    sama = SAMA(base, meta, alpha=0.01)
    with caplog.at_level(logging.WARNING, "sama"):
        for _ in range(2):
            sama.backward(
                lambda: base(x).square().mean(), lambda: (meta(x) * base(x).square()).mean()
            )
    assert [record.name for record in caplog.records] == ["sama"]
    assert "rounding" in caplog.text


def test_nudging_takes_no_copy_of_the_weights_and_steps_down_the_meta_cost() -> None:
    program = Quadratic(adam)
    sama = SAMA(program.base, program.meta, alpha=1e-3, nudge=True)
    before = float(program.meta_cost().detach())
    sama.backward(program.meta_cost, program.base_cost)
    slope = program.vector.norm()
    assert float(program.meta_cost().detach()) == pytest.approx(
        before - 1e-3 * float(slope), abs=1e-5
    )


def loop(steps: int) -> Iterator[int]:
    """Tensors alive after each meta step of a small program, all of whose parts are in use."""
    base, meta, meta_cost, base_cost = noisy()
    optimizer = Adam(base.parameters(), lr=0.01, weight_decay=0.1)
    above = SGD(meta.parameters(), lr=0.01)
    adaptation = Adaptation(optimizer)
    sama = SAMA(base, meta, adaptation, alpha=0.1)
    for step in range(steps + 1):
        base_cost().backward()  # type: ignore[no-untyped-call]
        adaptation.clip_grad_norm_(1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step:
            above.zero_grad()
            sama.backward(meta_cost, base_cost)
            above.step()
            if step in (10, steps):
                gc.collect()
                yield sum(issubclass(type(each), Tensor) for each in gc.get_objects())


def test_meta_steps_that_use_every_part_leak_no_tensor() -> None:
    early, late = loop(100)
    assert late == early


def test_an_adaptation_is_no_part_of_its_optimisers_state() -> None:
    program = Quadratic(adam)
    fresh = Adam([nn.Parameter(program.w.detach().clone())], lr=0.1)
    fresh.load_state_dict(copy.deepcopy(program.optimizer.state_dict()))
    (theirs,) = fresh.state.values()
    assert_close(dict(theirs), dict(program.optimizer.state[program.w]))
    assert not copy.deepcopy(program.optimizer)._optimizer_step_pre_hooks
