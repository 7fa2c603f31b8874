"""Facts of hypergradients: closed forms of quadratics, the whole inner loop, known orders."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from papers.betty import Config, ImplicitProblem, IterativeProblem
from tests.papers.betty.programs import engine, hypergradient_of, normal, problem, spd

SIZE, META = 6, 4


class Bilevel:
    """C_1 = w'Aw/2 - w'Bl, C_2 = |w - c|^2/2 + l'l/2: dw*/dl = (A^-1 B)'."""

    def __init__(self, seed: int = 0, **config: Any) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.a = spd(SIZE, generator)
        self.b = normal(SIZE, META, generator=generator)
        self.c = normal(SIZE, generator=generator)
        self.w = normal(SIZE, generator=generator)
        self.u = normal(META, generator=generator)
        self.lower = problem(
            "lower",
            self.w,
            lambda w, u: w @ self.a @ w / 2 - w @ self.b @ u,
            ("upper",),
            Config(**config),
        )
        self.upper = problem(
            "upper", self.u, lambda u, w: (w - self.c).square().sum() / 2 + u @ u / 2, ("lower",)
        )
        engine([self.lower, self.upper], u2l={"upper": ["lower"]}, l2u={"lower": ["upper"]})

    @property
    def vector(self) -> Tensor:
        """dC_2/dw."""
        return self.w - self.c

    @property
    def exact(self) -> Tensor:
        """The hypergradient at the optimum's Jacobian."""
        return self.u + self.b.T @ torch.linalg.solve(self.a, self.vector)


def test_finite_difference_is_the_mixed_derivative_and_restores_the_weights_bit_for_bit() -> None:
    program = Bilevel(type="darts")
    found = hypergradient_of(program.upper)
    assert_close(found, program.u + program.b.T @ program.vector, rtol=1e-9, atol=1e-9)
    assert torch.equal(program.lower.module.w, program.w)


def test_the_nudge_leaves_a_normalised_step_on_the_upper_cost() -> None:
    program = Bilevel(type="darts", darts_alpha=0.3, darts_multitask=True)
    hypergradient_of(program.upper)
    step = 0.3 * program.vector / program.vector.norm()
    assert_close(program.lower.module.w.detach(), program.w - step)


def test_conjugate_gradients_end_after_as_many_steps_as_dimensions() -> None:
    for scale in (1.0, 0.1):
        program = Bilevel(type="cg", cg_iterations=SIZE, cg_alpha=scale)
        assert_close(hypergradient_of(program.upper), program.exact, rtol=1e-8, atol=1e-8)


def test_damping_solves_the_damped_system() -> None:
    program = Bilevel(type="cg", cg_iterations=SIZE, cg_damping=0.7)
    damped = program.a + 0.7 * torch.eye(SIZE, dtype=torch.float64)
    wanted = program.u + program.b.T @ torch.linalg.solve(damped, program.vector)
    assert_close(hypergradient_of(program.upper), wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("terms", [0, 1, 5, 20])
def test_the_neumann_series_has_its_known_remainder(terms: int) -> None:
    step = 0.4
    program = Bilevel(type="neumann", neumann_iterations=terms, neumann_alpha=step)
    found = hypergradient_of(program.upper)
    contraction = torch.eye(SIZE, dtype=torch.float64) - step * program.a
    remainder = torch.linalg.matrix_power(contraction, terms + 1)
    solved = torch.linalg.solve(program.a, program.vector)
    wanted = program.u + program.b.T @ (solved - remainder @ solved)
    assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_finite_difference_is_of_second_order() -> None:
    """Halving the perturbation of a cubic cost quarters the error."""
    generator = torch.Generator().manual_seed(1)
    w, u, c = (normal(SIZE, generator=generator) for _ in range(3))
    exact = u + 4 * w**3 * (w - c)
    errors = []
    for alpha in (0.2, 0.1, 0.05):
        lower = problem(
            "lower", w, lambda w, u: -(w**4 * u).sum(), ("upper",), Config(darts_alpha=alpha)
        )
        upper = problem("upper", u, lambda u, w: (w - c).square().sum() / 2 + u @ u / 2, ("lower",))
        engine([lower, upper], u2l={"upper": ["lower"]}, l2u={"lower": ["upper"]})
        errors.append((hypergradient_of(upper) - exact).norm())
    rates = [float(a / b) for a, b in itertools.pairwise(errors)]
    assert rates == pytest.approx([4.0, 4.0], rel=0.05)


def test_all_methods_agree_where_the_hessian_is_the_identity() -> None:
    found = []
    for kind in ("darts", "neumann", "cg"):
        program = Bilevel(type=kind)
        program.a.copy_(torch.eye(SIZE, dtype=torch.float64))
        found.append(hypergradient_of(program.upper))
    assert_close(found[0], found[1], rtol=1e-8, atol=1e-8)
    assert_close(found[1], found[2], rtol=1e-8, atol=1e-8)


OPTIMIZERS = {
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1),
    "momentum": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True),
    "adam": lambda params: torch.optim.Adam(params, lr=0.1, weight_decay=0.01),
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.1, weight_decay=0.1),
}


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_unrolled_steps_have_the_derivative_of_the_whole_inner_loop(name: str, steps: int) -> None:
    """Against central differences of the loop run by torch.optim itself."""
    generator = torch.Generator().manual_seed(2)
    a, b = spd(SIZE, generator), normal(SIZE, META, generator=generator)
    c, start = (normal(SIZE, generator=generator) for _ in range(2))
    meta = normal(META, generator=generator)

    def inner(w: Tensor, u: Tensor) -> Tensor:
        return w @ a @ w / 2 - w @ b @ u + (w**3).sum() / 10

    def outer(u: Tensor, w: Tensor) -> Tensor:
        return (w - c).square().sum() / 2 + u @ u / 2

    def run(u: Tensor) -> Tensor:
        w = start.clone().requires_grad_()
        optimizer = OPTIMIZERS[name]([w])
        for _ in range(steps):
            optimizer.zero_grad()
            inner(w, u).backward()
            optimizer.step()
        return outer(u, w.detach())

    eye = torch.eye(META, dtype=torch.float64) * 1e-6
    wanted = torch.stack([(run(meta + e) - run(meta - e)) / 2e-6 for e in eye])
    lower = problem(
        "lower",
        start,
        inner,
        ("upper",),
        Config(unroll_steps=steps),
        OPTIMIZERS[name],
        IterativeProblem,
    )
    upper = problem("upper", meta, outer, ("lower",), Config(first_order=False))
    program = engine([lower, upper], u2l={"upper": ["lower"]}, l2u={"lower": ["upper"]})
    for _ in range(steps - 1):
        program.train_step()
    assert_close(hypergradient_of(upper), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_unrolled_steps_are_those_of_the_optimiser(name: str) -> None:
    """Over several loops: momentum and moments go on as without recording."""
    generator = torch.Generator().manual_seed(3)
    a, start = spd(SIZE, generator), normal(SIZE, generator=generator)
    weights = []
    for kind in (ImplicitProblem, IterativeProblem):
        lower = problem(
            "lower",
            start,
            lambda w, u: w @ a @ w / 2 - w.sum() * u.sum(),
            ("upper",),
            Config(unroll_steps=2),
            OPTIMIZERS[name],
            kind,
        )
        upper = problem(
            "upper",
            torch.ones(META, dtype=torch.float64),
            lambda u, w: w.square().sum(),
            ("lower",),
            Config(first_order=False),
        )
        program = engine([lower, upper], u2l={"upper": ["lower"]}, l2u={"lower": ["upper"]})
        for _ in range(7):
            program.train_step()
        weights.append(lower.module.w.detach())
    assert_close(weights[0], weights[1], rtol=1e-12, atol=1e-12)


class WeighedLosses(ImplicitProblem):
    """Classification of (64, 64) inputs, weighted by what the upper makes of the losses."""

    def training_step(self, batch: Any) -> Tensor:
        x, y = batch
        losses = nn.functional.cross_entropy(self.module(x), y, reduction="none")
        weights = self.upper(self.held("losses", losses)[:, None]).squeeze(-1)  # type: ignore[attr-defined]
        return (weights * losses).mean()


class Loss(ImplicitProblem):
    """The same network's loss on other samples."""

    def training_step(self, batch: Any) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.lower(x), y)  # type: ignore[attr-defined]


def of_a_network(caplog: pytest.LogCaptureFixture, **config: Any) -> tuple[Tensor, list[str]]:
    """(hypergradient of the weights, what was warned of)."""
    torch.manual_seed(0)
    caplog.clear()
    network = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))
    weigh = nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 1), nn.Sigmoid())
    sets = [(torch.randn(64, 64), torch.randint(0, 10, (64,))) for _ in range(2)]
    problems = [
        kind(name, own, net, torch.optim.SGD(net.parameters(), lr=0.0), train_data_loader=[data])
        for kind, name, own, net, data in (
            (WeighedLosses, "lower", Config(neumann_iterations=0, **config), network, sets[0]),
            (Loss, "upper", None, weigh, sets[1]),
        )
    ]
    engine(problems, u2l={"upper": ["lower"]}, l2u={"lower": ["upper"]})
    found: list[Tensor] = []
    problems[1].grad_callback = lambda: found.append(  # type: ignore[method-assign]
        torch.cat([p.grad.flatten() for p in weigh.parameters()])  # type: ignore[union-attr]
    )
    problems[0].engine.train_step()  # type: ignore[union-attr]
    return found[0], [record.getMessage() for record in caplog.records]


def test_a_shift_that_the_precision_rounds_away_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """In bf16 the difference is noise; the mixed derivative itself is right, and so is fp32."""
    exact, _ = of_a_network(caplog, type="neumann")
    error = {}
    for kind, precision in (("darts", "fp32"), ("neumann", "bf16"), ("darts", "bf16")):
        found, said = of_a_network(caplog, type=kind, precision=precision)
        error[kind, precision] = float((found - exact).norm() / exact.norm())
        assert bool(said) == ((kind, precision) == ("darts", "bf16"))
    assert error["darts", "fp32"] < 0.01
    assert error["neumann", "bf16"] < 0.05
    assert error["darts", "bf16"] > 0.2
    assert said[0].startswith("problem 'lower': a finite difference shifts the weights, of norm")
    assert "by 0.01, of which their precision resolves" in said[0]
    assert "(precision bf16)" in said[0]
