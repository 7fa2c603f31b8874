"""Facts of SAMA's hypergradient: closed forms, one unrolled step, known orders, what is left."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD, Adagrad, Adam, AdamW, NAdam, RMSprop
from torch.testing import assert_close

from common.errors import InputError
from papers.betty import Config, Problem
from papers.betty.hypergradient.shift import Shift
from papers.sama import Adaptation, hypergradient
from tests.papers.betty.programs import engine, hypergradient_of, problem
from tests.papers.sama.quadratics import Quadratic

MAKERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda params: SGD(params, lr=0.1),
    "nesterov": lambda params: SGD(params, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda params: Adam(params, lr=0.1),
    "adam with L2": lambda params: Adam(params, lr=0.1, weight_decay=0.3),
    "adamw": lambda params: AdamW(params, lr=0.1, weight_decay=0.3),
    "nadam": lambda params: NAdam(params, lr=0.1),
    "rmsprop": lambda params: RMSprop(params, lr=0.1, centered=True),
    "adagrad": lambda params: Adagrad(params, lr=0.1),
}


def found_by(program: Quadratic, adaptation: Adaptation | None, **options: Any) -> Tensor:
    (found,) = hypergradient(
        program.meta_cost,
        program.base_cost,
        [program.l],
        [program.w] if adaptation is None else None,
        adaptation,
        **options,
    )
    assert found is not None
    return found


def test_sgd_on_a_quadratic() -> None:
    """By hand: ``D = lr``, the mixed derivative is -B, and ``l`` itself is the direct part."""
    program = Quadratic(MAKERS["sgd"])
    wanted = program.l + 0.1 * program.b.T @ program.vector
    assert_close(found_by(program, program.adaptation), wanted.detach(), rtol=1e-10, atol=1e-10)


def test_adam_on_a_quadratic() -> None:
    """By hand, as the published formula has it with bias correction and epsilon going to zero."""
    program = Quadratic(lambda params: Adam(params, lr=0.1, eps=0.0))
    state = program.optimizer.state[program.w]
    grad, m, s = program.w.grad, state["exp_avg"], state["exp_avg_sq"]
    assert grad is not None
    older_m, older_s = (m - 0.1 * grad) / 0.9, (s - 0.001 * grad**2) / 0.999
    factor = 0.1 * (1 - 0.999**3) ** 0.5 / (1 - 0.9**3)
    d = factor * (0.1 * 0.999 * older_s - 0.9 * 0.001 * grad * older_m) / s**1.5
    wanted = program.l + program.b.T @ (d * program.vector)
    assert_close(found_by(program, program.adaptation), wanted.detach(), rtol=1e-9, atol=1e-9)


def test_without_adaptation_the_vector_is_the_meta_gradient() -> None:
    program = Quadratic(MAKERS["adam"])
    wanted = program.l + program.b.T @ program.vector
    assert_close(found_by(program, None), wanted.detach(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("steps", [2, 5])
@pytest.mark.parametrize("name", MAKERS)
def test_it_is_the_derivative_of_the_optimisers_last_step(name: str, steps: int) -> None:
    """The mixed derivative is the same everywhere: against differences of the real step."""
    program = Quadratic(MAKERS[name], steps)
    start = program.l.detach().clone()

    def meta_cost(values: Tensor) -> Tensor:
        after = program.step_again(values)
        return (after - program.c).square().sum() / 2 + values.square().sum() / 2

    assert_close(program.step_again(start), program.w.detach(), rtol=1e-9, atol=1e-9)
    eye = torch.eye(len(start), dtype=torch.float64) * 1e-5
    wanted = torch.stack([(meta_cost(start + e) - meta_cost(start - e)) / 2e-5 for e in eye])
    assert_close(found_by(program, program.adaptation), wanted, rtol=1e-6, atol=1e-8)


def test_the_difference_is_of_second_order() -> None:
    """Halving the shift quarters the error where the mixed derivative depends on the weights."""
    program = Quadratic(MAKERS["adam"])
    program.base_cost = lambda: -(program.w**4 * program.l.sum()).sum()  # type: ignore[method-assign]
    v = program.adaptation([program.vector])[0]
    exact = program.l + (4 * program.w**3 * v).sum()
    errors = [
        (found_by(program, program.adaptation, alpha=alpha) - exact).detach().norm()
        for alpha in (0.2, 0.1, 0.05)
    ]
    rates = [float(a / b) for a, b in itertools.pairwise(errors)]
    assert rates == pytest.approx([4.0, 4.0], rel=0.05)


def test_weights_are_restored_bit_for_bit_or_left_nudged() -> None:
    program = Quadratic(MAKERS["adam"])
    before = program.w.detach().clone()
    restored = found_by(program, program.adaptation, alpha=0.3)
    assert torch.equal(program.w, before)
    v = program.adaptation([program.vector])[0]
    nudged = found_by(program, program.adaptation, alpha=0.3, nudge=True)
    assert_close(nudged, restored, rtol=1e-10, atol=1e-10)
    assert_close(program.w.detach(), before - 0.3 * v / v.norm(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("nudge", [False, True])
def test_weights_are_put_back_when_a_cost_fails(nudge: bool) -> None:
    program = Quadratic(MAKERS["adam"])
    before = program.w.detach().clone()

    def fails() -> Tensor:
        raise RuntimeError("out of memory")

    program.base_cost = fails  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="out of memory"):
        found_by(program, program.adaptation, nudge=nudge)
    assert_close(program.w.detach(), before, rtol=0, atol=1e-15 if nudge else 0)


def test_the_norm_of_a_shift_is_that_of_all_weights() -> None:
    weights = [torch.zeros(2), torch.zeros(3)]
    vector = [torch.full((2,), 3.0), torch.full((3,), 4.0)]
    with Shift(weights, vector, 0.5, nudge=False) as shift:
        shift.to(1)
        moved = torch.cat(weights)
    assert float(moved.norm()) == pytest.approx(0.5)
    assert not torch.cat(weights).any()


def test_the_last_layer_is_a_part_of_the_weights() -> None:
    """What the others contribute is missing, and they do not move."""
    generator = torch.Generator().manual_seed(0)
    first, last, values = (
        torch.randn(3, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)
    )
    optimizer = SGD([first, last], lr=0.1)
    adaptation = Adaptation(optimizer, [last])

    def base_cost() -> Tensor:
        assert torch.equal(first, kept)
        return (values * (first + last)).sum() + (first * last).square().sum()

    kept = first.detach().clone()
    base_cost().backward()
    optimizer.step()
    kept = first.detach().clone()
    (found,) = hypergradient(
        lambda: (first * last).sum(), base_cost, [values], adaptation=adaptation
    )
    assert_close(found, -0.1 * first.detach(), rtol=1e-10, atol=1e-10)


def in_betty(make: Callable[..., torch.optim.Optimizer], **config: Any) -> Problem:
    """The upper problem of a program with the costs of :class:`Quadratic`."""
    program = Quadratic(MAKERS["adam"], steps=0)
    lower = problem(
        "lower",
        program.w.detach().clone(),
        lambda w, u: w @ program.a @ w / 2 - w @ program.b @ u,
        ("upper",),
        Config(**({"type": "sama", "unroll_steps": 2} | config)),
        make,
    )
    upper = problem(
        "upper",
        program.l.detach().clone(),
        lambda u, w: (w - program.c).square().sum() / 2 + u @ u / 2,
        ("lower",),
    )
    engine([lower, upper], u2l={"upper": ["lower"]}, l2u={"lower": ["upper"]})
    return upper


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_betty_finds_the_same(name: str, clip: float) -> None:
    """Config(type="sama") in a program of the same costs, after the same steps."""
    upper = in_betty(MAKERS[name], gradient_clipping=clip)
    upper.engine.train_step()  # type: ignore[union-attr]
    theirs = hypergradient_of(upper)
    program = Quadratic(MAKERS[name], steps=2, clip=clip)
    ours = found_by(program, program.adaptation)
    # Both add u itself, beside which the part through w may be small.
    direct = program.l.detach()
    assert_close(ours - direct, theirs - direct, rtol=1e-7, atol=1e-10)


def test_betty_refuses_what_has_no_derivative_of_a_step() -> None:
    """Before training where that can be known."""
    with pytest.raises(InputError, match=r"'lower', type 'sama': optimizer Rprop: no rule .* Adam"):
        in_betty(torch.optim.Rprop)
    upper = in_betty(MAKERS["adam"], unroll_steps=1)
    with pytest.raises(InputError, match="'lower', type 'sama': its optimizer has taken one step"):
        upper.engine.train_step()  # type: ignore[union-attr]


def test_adagrad_that_starts_from_squares_takes_a_meta_step_after_one() -> None:
    program = Quadratic(lambda p: Adagrad(p, lr=0.1, initial_accumulator_value=1.0), steps=1)
    assert found_by(program, program.adaptation).isfinite().all()
    program = Quadratic(MAKERS["adagrad"], steps=1)
    with pytest.raises(InputError, match="taken one step"):
        found_by(program, program.adaptation)


def test_bad_input_is_one_clear_line() -> None:
    program = Quadratic(MAKERS["adam"], steps=1)
    with pytest.raises(InputError, match="taken one step"):
        found_by(program, program.adaptation)
    for name, cost, what in (
        ("meta_cost", lambda w, values: (w * torch.nan).sum(), "norm nan"),
        ("meta_cost", lambda w, values: values.sum(), "depends on no base weight"),
        ("base_cost", lambda w, values: w.sum(), "depends on no meta parameter"),
    ):
        program = Quadratic(MAKERS["adam"])
        setattr(program, name, functools.partial(cost, program.w, program.l))
        with pytest.raises(InputError, match=what) as error:
            found_by(program, program.adaptation)
        assert "\n" not in str(error.value)
    program = Quadratic(MAKERS["adam"])
    costs = program.meta_cost, program.base_cost
    with pytest.raises(InputError, match="allowed: one of them"):
        hypergradient(*costs, [program.l])
    with pytest.raises(InputError, match="given twice"):
        hypergradient(*costs, [program.l], [program.w, program.w])
    with pytest.raises(InputError, match="weights differ"):
        hypergradient(*costs, [program.l], [program.l], program.adaptation)
