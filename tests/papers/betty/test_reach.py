"""Facts of missing hypergradients: Betty says once which problem has none, and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from common.errors import InputError
from papers.betty import Config, Engine, IterativeProblem
from tests.papers.betty.programs import (
    Endless,
    Vector,
    engine,
    hypergradient_of,
    normal,
    problem,
    spd,
)

SIZE = 5
BILEVEL: dict[str, Any] = {"u2l": {"upper": ["lower"]}, "l2u": {"lower": ["upper"]}}
Cost = Callable[[Tensor, Tensor], Tensor]
ONE, TWO = torch.ones(SIZE, dtype=torch.float64), 2 * torch.ones(SIZE, dtype=torch.float64)


def lower_cost(w: Tensor, u: Tensor) -> Tensor:
    return w.square().sum() / 2 - (w * u).sum()


def upper_cost(u: Tensor, w: Tensor) -> Tensor:
    return (w - 3).square().sum() / 2


def bilevel(
    lower: Cost = lower_cost,
    upper: Cost = upper_cost,
    edges: dict[str, Any] = BILEVEL,
    start: Tensor = ONE,
    **config: Any,
) -> Engine:
    """A program of which a part may be missing."""
    kind = {"kind": IterativeProblem} if config.get("type") == "itd" else {}
    sgd = lambda params: torch.optim.SGD(params, lr=0.1 if kind else 0.0)  # noqa: E731
    problems = [
        problem("lower", start, lower, ("upper",), Config(**config), sgd, **kind),
        problem("upper", TWO, upper, ("lower",), Config(**config), **kind),
    ]
    return engine(problems, **edges)


def said(program: Engine, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Warnings of four iterations: one for each fault."""
    for _ in range(4):
        program.train_step()
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == len(set(messages))
    return messages


@pytest.mark.parametrize("kind", ["darts", "neumann", "cg", "itd"])
def test_nothing_is_said_where_hypergradients_arrive(
    kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert said(bilevel(type=kind), caplog) == []


@pytest.mark.parametrize("kind", ["darts", "neumann", "cg", "itd"])
def test_an_upper_cost_that_does_not_read_its_lower_problem(
    kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    program = bilevel(upper=lambda u, w: u.square().sum() + w.detach().sum(), type=kind)
    (message,) = said(program, caplog)
    assert "'upper': no hypergradient comes through 'lower': its cost does not" in message
    assert "dependencies['l2u'] has 'lower' -> 'upper'" in message


@pytest.mark.parametrize("kind", ["darts", "neumann", "cg", "itd"])
def test_a_lower_cost_that_does_not_read_its_upper_problem(
    kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    program = bilevel(lower=lambda w, u: (w - u.detach()).square().sum(), type=kind)
    said_of = [m for m in said(program, caplog) if m.startswith("problem 'upper': no hyper")]
    assert len(said_of) == 1
    assert "through 'lower': the cost of 'lower' does not depend on the" in said_of[0]
    assert "dependencies['u2l'] has 'upper' -> 'lower'" in said_of[0]


@pytest.mark.parametrize("kind", ["darts", "neumann", "cg", "itd"])
def test_edges_of_the_wrong_kind(kind: Any, caplog: pytest.LogCaptureFixture) -> None:
    swapped = {"u2l": BILEVEL["l2u"], "l2u": BILEVEL["u2l"]}
    messages = said(bilevel(edges=swapped, type=kind), caplog)
    assert any("'upper': its step has no gradient" in m and "swapped?" in m for m in messages)


def test_a_zero_that_the_upper_cost_gives(caplog: pytest.LogCaptureFixture) -> None:
    (message,) = said(bilevel(start=3 * ONE), caplog)
    assert "'upper': its hypergradient is exactly 0 in its first step" in message
    assert "the derivative of its cost by the parameters of 'lower' is 0" in message


def test_a_zero_that_the_lower_cost_gives(caplog: pytest.LogCaptureFixture) -> None:
    program = bilevel(lower=lambda w, u: w.square().sum() + u.square().sum())
    (message,) = said(program, caplog)
    assert "the product with the Jacobian of 'lower' (type 'darts') is 0" in message


def test_conjugate_gradients_without_curvature_say_what_damping_would_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The named damping makes the first curvature positive, and enough of it the exact solution."""
    generator = torch.Generator().manual_seed(0)
    matrix = spd(SIZE, generator) - 1.5 * torch.eye(SIZE, dtype=torch.float64)  # -1 to 0.5
    start = normal(SIZE, generator=generator)

    def cost(w: Tensor, u: Tensor) -> Tensor:
        return w @ matrix @ w / 2 - w @ u

    vector = start - 3
    curvature = float(vector @ matrix @ vector / (vector @ vector))
    assert curvature < 0
    program = bilevel(cost, start=start, type="cg")
    assert not hypergradient_of(program.upper).any()  # type: ignore[attr-defined]
    first = caplog.records[0].getMessage()
    assert "'lower': its Hessian is not positive definite: the curvature along the deriv" in first
    assert f"a cg_damping above {-curvature:.3g}" in first
    caplog.clear()
    program = bilevel(cost, start=start, type="cg", cg_damping=1.2, cg_iterations=SIZE)
    damped = matrix + 1.2 * torch.eye(SIZE, dtype=torch.float64)
    found = hypergradient_of(program.upper)  # type: ignore[attr-defined]
    assert_close(found, torch.linalg.solve(damped, vector), rtol=1e-9, atol=1e-9)
    assert caplog.records == []


def test_what_is_read_without_an_edge(caplog: pytest.LogCaptureFixture) -> None:
    edges = {"l2u": BILEVEL["l2u"], "u2l": {}}
    program = bilevel(upper=lambda u, w: (u - w).square().sum(), edges=edges)
    (message,) = said(program, caplog)
    assert message.startswith("problem 'lower': its cost depends on the parameters of 'upper'")
    assert "dependencies['u2l'] has no 'upper' -> 'lower'" in message
    assert "the hypergradient of upper leaves that out" in message


def test_a_second_path_that_was_not_declared(caplog: pytest.LogCaptureFixture) -> None:
    """The top reads the lowest problem through the middle one, and directly without an edge."""
    problems = [
        problem("low", ONE, lower_cost, ("top",)),
        problem("mid", TWO, lower_cost, ("low",)),
        problem("top", ONE, lambda u, mid, low: (mid * low).sum(), ("mid", "low")),
    ]
    edges = {"u2l": {"top": ["low"]}, "l2u": {"low": ["mid"], "mid": ["top"]}}
    (message,) = said(engine(problems, **edges), caplog)
    assert message.startswith("problem 'top': its cost depends on the parameters of 'low'")
    assert "dependencies['l2u'] has no 'low' -> 'top': the hypergradient of top" in message


def test_values_of_problems_that_do_not_wait_for_each_other_need_no_edge(
    caplog: pytest.LogCaptureFixture,
) -> None:
    problems = [
        problem("lower", ONE, lambda w, u, v: ((w - u) * v).square().sum(), ("one", "two")),
        problem("one", TWO, lambda u, w, v: ((w + u) * v).square().sum(), ("lower", "two")),
        problem("two", TWO, lambda v, w: w.square().sum(), ("lower",)),
    ]
    edges = {"one": ["lower"], "two": ["lower"]}, {"lower": ["one", "two"]}
    assert said(engine(problems, *edges), caplog) == []


@pytest.mark.parametrize("whose", ["lower", "upper"])
def test_recorded_steps_refuse_what_is_read_past_them(whose: str) -> None:
    modules = {name: Vector(value) for name, value in (("lower", ONE), ("upper", TWO))}
    kept = {name: next(iter(module.parameters())) for name, module in modules.items()}

    class Lower(IterativeProblem):
        def training_step(self, batch: Any) -> Tensor:
            values = {"lower": self(), "upper": self.upper()}  # type: ignore[attr-defined]
            values[whose] = kept[whose]
            return lower_cost(values["lower"], values["upper"])

    sgd = torch.optim.SGD(modules["lower"].parameters(), lr=0.1)
    lower = Lower("lower", Config("itd"), modules["lower"], sgd, train_data_loader=Endless())
    upper = problem("upper", TWO, upper_cost, ("lower",))
    upper.module.w = kept["upper"]
    upper.optimizer = torch.optim.SGD(upper.module.parameters(), lr=0.1)
    program = engine([lower, upper], **BILEVEL)
    with pytest.raises(InputError, match=f"'lower': its cost reads parameters of '{whose}' from a"):
        program.train_step()
