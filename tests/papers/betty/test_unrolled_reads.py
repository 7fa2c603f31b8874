"""Facts of recorded steps: what their costs read is what the derivative goes through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from papers.betty import Config, IterativeProblem, Problem
from tests.papers.betty.programs import (
    Endless,
    Vector,
    engine,
    hypergradient_of,
    normal,
    problem,
    spd,
)

SIZE, RATE, STEPS = 4, 0.3, 3
BILEVEL: dict[str, Any] = {"u2l": {"upper": ["lower"]}, "l2u": {"lower": ["upper"]}}
READS: dict[str, Callable[[Problem], Any]] = {
    "a call": lambda item: item(),
    "the module": lambda item: item.module.w,
    "the module's parameters()": lambda item: next(item.module.parameters()),
    "parameters()": lambda item: item.parameters()[0],
    "trainable_parameters()": lambda item: item.trainable_parameters()[0],
}


@pytest.mark.parametrize("way", READS)
def test_every_way_to_read_parameters_has_the_derivative_of_the_steps(way: str) -> None:
    """C_1 = w'Aw/2 - w'u: k steps from w_0 have dw_k/du = r sum_{i<k} (1 - rA)^i."""
    generator = torch.Generator().manual_seed(0)
    curvature = spd(SIZE, generator)
    start, u, c = (normal(SIZE, generator=generator) for _ in range(3))
    read = READS[way]

    class Lower(IterativeProblem):
        def training_step(self, batch: Any) -> Tensor:
            w, upper = read(self), read(self.upper)  # type: ignore[attr-defined]
            return w @ curvature @ w / 2 - w @ upper

    module = Vector(start)
    sgd = torch.optim.SGD(module.parameters(), lr=RATE)
    config = Config("itd", unroll_steps=STEPS)
    lower = Lower("lower", config, module, sgd, train_data_loader=Endless())
    upper = problem("upper", u, lambda u, w: (w - c).square().sum() / 2, ("lower",))
    program = engine([lower, upper], **BILEVEL)
    for _ in range(STEPS - 1):
        program.train_step()
    found = hypergradient_of(upper)
    step = torch.eye(SIZE, dtype=torch.float64) - RATE * curvature
    jacobian = RATE * sum(torch.linalg.matrix_power(step, i) for i in range(STEPS))
    w = start
    for _ in range(STEPS):
        w = w - RATE * (curvature @ w - u)
    assert_close(module.w.detach(), w, rtol=1e-12, atol=1e-12)
    assert_close(found, jacobian.T @ (w - c), rtol=1e-12, atol=1e-12)


def test_the_penalty_of_the_readme_moves_as_with_the_modules_own_parameters() -> None:
    """Its cost reads ``self.parameters()`` and ``self.penalty.parameters()``."""
    torch.manual_seed(0)
    x, y = torch.randn(100, 20), torch.randn(100)
    layers = {name: nn.Linear(20, 1) for name in ("weights", "penalty")}
    starts = {name: layer.state_dict() for name, layer in layers.items()}
    starts = {name: {k: v.clone() for k, v in each.items()} for name, each in starts.items()}
    ways: list[Callable[[Any], Any]] = [
        lambda item: item.parameters(),
        lambda item: item.module.parameters(),
    ]
    ended = []
    for read in ways:

        class Weights(IterativeProblem):
            def training_step(self, batch: Any, read: Any = read) -> Tensor:
                return ((self.module(x[:50]).squeeze() - y[:50]) ** 2).mean() + sum(
                    (penalty * weight**2).sum()
                    for penalty, weight in zip(read(self.penalty), read(self), strict=True)  # type: ignore[attr-defined]
                )

        class Penalty(IterativeProblem):
            def training_step(self, batch: Any) -> Tensor:
                return ((self.weights(x[50:]).squeeze() - y[50:]) ** 2).mean()  # type: ignore[attr-defined]

        problems = []
        for kind, name in ((Weights, "weights"), (Penalty, "penalty")):
            layers[name].load_state_dict(starts[name])
            sgd = torch.optim.SGD(layers[name].parameters(), lr=0.01)
            config = Config("itd", unroll_steps=5)
            problems.append(kind(name, config, layers[name], sgd, train_data_loader=[()]))
        edges = {"u2l": {"penalty": ["weights"]}, "l2u": {"weights": ["penalty"]}}
        engine(problems, **edges, train_iters=100).run()
        ended.append({k: v.clone() for k, v in layers["penalty"].state_dict().items()})
    assert_close(ended[0], ended[1], rtol=0, atol=0)
    assert not torch.equal(ended[0]["weight"], starts["penalty"]["weight"])


def caught(*uppers: Problem) -> dict[str, Tensor]:
    """Where each step of ``uppers`` leaves its gradient."""
    found: dict[str, Tensor] = {}
    for upper in uppers:

        def catch(upper: Problem = upper) -> None:
            grad = upper.trainable_parameters()[0].grad
            assert grad is not None
            found[upper.name] = grad.clone()

        upper.grad_callback = catch  # type: ignore[method-assign]
    return found


def unrolled(cost: Callable[..., Tensor], start: Tensor, steps: int, *others: Tensor) -> Tensor:
    """Weights after gradient steps, as a function of ``others``."""
    w = start.clone().requires_grad_()
    for _ in range(steps):
        (gradient,) = torch.autograd.grad(cost(w, *others), w, create_graph=True)
        w = w - RATE * gradient
    return w


@pytest.mark.parametrize("second", ["itd", "cg"])
@pytest.mark.parametrize("steps", [1, 2])
def test_an_upper_of_two_lowers_gets_the_sum_of_both_jacobians(second: Any, steps: int) -> None:
    """The first one's record is there until the upper has stepped, after the second one's loop."""
    generator = torch.Generator().manual_seed(1)
    a, b = spd(SIZE, generator), normal(SIZE, SIZE, generator=generator)
    starts = [normal(SIZE, generator=generator) for _ in range(2)]
    u = normal(SIZE, generator=generator)

    def inner(w: Tensor, u: Tensor) -> Tensor:
        return w @ a @ w / 2 - w @ b @ u + (w**4).sum() / 40

    lowers = [
        problem(
            name,
            start,
            inner,
            ("upper",),
            Config(kind, unroll_steps=steps, cg_iterations=SIZE),
            lambda params: torch.optim.SGD(params, lr=RATE),
            IterativeProblem,
        )
        for name, start, kind in zip(("l1", "l2"), starts, ("itd", second), strict=True)
    ]
    upper = problem(
        "upper", u, lambda u, v, w: (v.square().sum() + (w**3).sum() + u @ v) / 2, ("l1", "l2")
    )
    program = engine([*lowers, upper], {"upper": ["l1", "l2"]}, {"l1": ["upper"], "l2": ["upper"]})
    found = caught(upper)
    for _ in range(3 * steps):  # the upper does not move: its learning rate is 0
        ends = [lower.module.w.detach().clone() for lower in lowers]
        if program.global_step % steps == 0:
            starts = ends
        program.global_step += 1
        program.train_step()
    outer = u.clone().requires_grad_()
    v, w = (unrolled(inner, start, steps, outer) for start in starts)
    if second == "cg":  # H and M at the present weights, on the last batch
        w = w.detach().requires_grad_()
    cost = (v.square().sum() + (w**3).sum() + outer @ v) / 2
    wanted = torch.autograd.grad(cost, outer, retain_graph=True)[0]
    if second == "cg":
        (vector,) = torch.autograd.grad(cost, w)
        hessian = a + torch.diag(0.3 * w.detach() ** 2)
        wanted = wanted + b.T @ torch.linalg.solve(hessian, vector)
    assert_close(found["upper"], wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("second", ["itd", "darts"])
def test_uppers_step_one_after_the_other_without_spoiling_the_record(second: str) -> None:
    """The cost saves the first one's value for its derivative; the second looks at it later."""
    generator = torch.Generator().manual_seed(2)
    start, a, b, c = (normal(SIZE, generator=generator) for _ in range(4))

    def inner(w: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return (a * w).square().sum() / 2 + (b * w).sum()

    def outer(own: Tensor, w: Tensor) -> Tensor:
        return (w - c).square().sum() / 2

    sgd = lambda params: torch.optim.SGD(params, lr=RATE)  # noqa: E731
    config = Config("darts", unroll_steps=2)
    lower = problem("lower", start, inner, ("one", "two"), config, sgd, IterativeProblem)
    kinds = {"one": Config(first_order=second != "itd"), "two": Config(first_order=False)}
    one, two = (
        problem(name, value, outer, ("lower",), kinds[name], sgd)
        for name, value in (("one", a), ("two", b))
    )
    found = caught(one, two)
    program = engine(
        [lower, one, two], {"one": ["lower"], "two": ["lower"]}, {"lower": ["one", "two"]}
    )
    for _ in range(2):
        program.train_step()
    leaves = [value.clone().requires_grad_() for value in (a, b)]
    wanted = torch.autograd.grad(outer(a, unrolled(inner, start, 2, *leaves)), leaves)
    assert_close(found["two"], wanted[1], rtol=1e-12, atol=1e-12)
    if second == "itd":
        assert_close(found["one"], wanted[0], rtol=1e-12, atol=1e-12)


def test_a_record_keeps_what_a_lower_problem_was_that_moves_in_the_loop() -> None:
    """Three levels: the middle one's steps are recorded, the lowest moves before each of them."""
    generator = torch.Generator().manual_seed(3)
    x, w, u = (normal(SIZE, generator=generator) for _ in range(3))
    sgd = lambda params: torch.optim.SGD(params, lr=RATE)  # noqa: E731
    low = problem("low", x, lambda x: x.square().sum() / 2, (), None, sgd)
    mid = problem(
        "mid",
        w,
        lambda w, x, u: (x * w).square().sum() / 2 - w @ u,
        ("low", "top"),
        Config("itd", unroll_steps=3),
        sgd,
        IterativeProblem,
    )
    top = problem("top", u, lambda u, w: w.square().sum() / 2, ("mid",))
    found = caught(top)
    program = engine([low, mid, top], {"top": ["mid"]}, {"low": ["mid"], "mid": ["top"]})
    for _ in range(3):
        program.train_step()
    outer, moved = u.clone().requires_grad_(), w
    for step in (1, 2, 3):
        at = x * (1 - RATE) ** step
        moved = moved - RATE * (at.square() * moved - outer)
    (wanted,) = torch.autograd.grad(moved.square().sum() / 2, outer)
    assert_close(found["top"], wanted, rtol=1e-12, atol=1e-12)
