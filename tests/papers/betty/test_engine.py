"""Facts of execution: who is stepped when, what is refused, replays, roll-back, states."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.errors import InputError
from papers.betty import Config, Engine, EngineConfig, ImplicitProblem, IterativeProblem
from tests.papers.betty.programs import Endless, Vector, engine, hypergradient_of, problem

ONE = torch.ones(2, dtype=torch.float64)
BILEVEL: dict[str, Any] = {"u2l": {"upper": ["lower"]}, "l2u": {"lower": ["upper"]}}


def pair(lower: Config | None = None, upper: Config | None = None, **settings: Any) -> Engine:
    """A bilevel program that counts optimiser steps."""
    problems = [
        problem("lower", ONE, lambda w, u: (w * u).sum(), ("upper",), lower),
        problem("upper", ONE, lambda u, w: (u * w).sum(), ("lower",), upper),
    ]
    program = engine(problems, **BILEVEL, **settings)
    for item in problems:
        item.updates = 0  # type: ignore[attr-defined]

        def count(item: Any = item) -> None:
            item.updates += 1

        item.param_callback = count  # type: ignore[method-assign]
    return program


@pytest.mark.parametrize(
    ("config", "lower", "upper"),
    [
        (Config(unroll_steps=3), 24, 8),
        (Config(unroll_steps=3, gradient_accumulation=2), 12, 4),
        (Config(unroll_steps=3, warmup_steps=10), 24, 5),
    ],
)
def test_uppers_step_after_the_last_unrolled_step(config: Config, lower: int, upper: int) -> None:
    program = pair(config, train_iters=24)
    program.run()
    assert (program.lower.updates, program.upper.updates) == (lower, upper)  # type: ignore[attr-defined]


def test_three_levels_count_down_by_their_unroll_steps() -> None:
    names, steps = ["a", "b", "c"], [2, 3, 1]
    problems = [
        problem(name, ONE, lambda w, *_: w.square().sum(), (), Config(unroll_steps=n))
        for name, n in zip(names, steps, strict=True)
    ]
    program = engine(problems, u2l={}, l2u={"a": ["b"], "b": ["c"]}, train_iters=12)
    program.run()
    assert [item.count for item in problems] == [12, 6, 2]


class WithDropout(ImplicitProblem):
    """A network whose cost has dropout and batch normalisation."""

    def training_step(self, batch: Any) -> Tensor:
        return (self.module(batch) * self.upper()).square().mean()  # type: ignore[attr-defined]


def test_a_replay_has_the_same_noise_and_leaves_buffers_and_generators_alone() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))
    data = [torch.randn(16, 4)]
    lower = WithDropout(
        "lower", None, module, torch.optim.SGD(module.parameters(), lr=0.0), train_data_loader=data
    )
    upper = problem("upper", torch.ones(2), lambda u, *_: u.sum())
    program = engine([lower, upper], **BILEVEL)
    first, _ = lower.get_loss(lower.get_batch())
    lower._loop.starts = False
    lower.one_step_descent()
    buffers = [buffer.clone() for buffer in module.buffers()]
    random = torch.get_rng_state()
    again = [float(lower.replayed_loss(*lower.micro_batches).detach()) for _ in range(2)]
    assert again[0] == again[1] == pytest.approx(lower.last_loss)
    assert float(first.detach()) != again[0]
    assert all(torch.equal(a, b) for a, b in zip(module.buffers(), buffers, strict=True))
    assert torch.equal(torch.get_rng_state(), random)
    assert program.device.type == "cpu"


class Reweighted(ImplicitProblem):
    """Meta-Weight-Net's inner problem: weights are a function of detached losses."""

    hold = True

    def training_step(self, batch: Any) -> Tensor:
        x, y = batch
        losses = (self.module(x).squeeze(-1) - y).square()
        read = self.held("losses", losses) if self.hold else losses.detach()
        return (self.upper(read[:, None]).squeeze(-1) * losses).mean()  # type: ignore[attr-defined]


class Meta(ImplicitProblem):
    """Its outer problem."""

    def training_step(self, batch: Any) -> Tensor:
        x, y = batch
        return (self.lower(x).squeeze(-1) - y).square().mean()  # type: ignore[attr-defined]


@pytest.mark.parametrize("hold", [True, False])
def test_finite_differences_need_what_is_detached_to_be_held(hold: bool) -> None:
    """Held, they equal double backward through the detached program; not held, they do not."""
    torch.manual_seed(1)
    double = {"dtype": torch.float64}
    net = nn.Sequential(nn.Linear(5, 7, **double), nn.Tanh(), nn.Linear(7, 1, **double))
    weigh = nn.Sequential(nn.Linear(1, 6, **double), nn.Tanh(), nn.Linear(6, 1, **double))
    batches = [tuple(torch.randn(n, *shape, **double) for shape in ((5,), ())) for n in (20, 20)]
    found = []
    for kind in ("darts", "neumann"):
        config = Config(type=kind, darts_alpha=1e-4, neumann_iterations=0)  # type: ignore[arg-type]
        lower = Reweighted(
            "lower",
            config,
            net,
            torch.optim.SGD(net.parameters(), lr=0.0),
            train_data_loader=[batches[0]],
        )
        lower.hold = hold
        upper = Meta(
            "upper",
            None,
            weigh,
            torch.optim.SGD(weigh.parameters(), lr=0.0),
            train_data_loader=[batches[1]],
        )
        engine([lower, upper], **BILEVEL)
        found.append(hypergradient_of(upper))
    cosine = float(nn.functional.cosine_similarity(*[g.flatten() for g in found], dim=0))
    assert (cosine > 1 - 1e-6) == hold


def test_roll_back_redoes_the_last_step_from_the_loops_start_with_new_uppers() -> None:
    sgd = lambda params: torch.optim.SGD(params, lr=0.1)  # noqa: E731
    lower = problem("lower", ONE, lambda w, u: (w * u).sum(), ("upper",), None, sgd)
    upper = problem("upper", ONE, lambda u, w: (u * w).sum(), ("lower",), None, sgd)
    engine([lower, upper], **BILEVEL, roll_back=True).train_step()
    new_upper = upper.module.w.detach()
    assert not torch.equal(new_upper, ONE)
    torch.testing.assert_close(lower.module.w.detach(), ONE - 0.1 * new_upper)


def test_roll_back_of_a_problem_that_differentiates_recorded_steps_is_refused() -> None:
    levels = [
        problem(
            "low", ONE, lambda w, u: (w * u).sum(), ("mid",), Config("itd"), None, IterativeProblem
        ),
        problem("mid", ONE, lambda w, x, u: (w * x * u).sum(), ("low", "top")),
        problem("top", ONE, lambda w, x: (w * x).sum(), ("mid",)),
    ]
    edges = {"mid": ["low"], "top": ["mid"]}, {"low": ["mid"], "mid": ["top"]}
    with pytest.raises(InputError, match="'low': type 'itd' with roll_back: 'mid' would"):
        engine(levels, *edges, roll_back=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"module": nn.Identity()}, "no trainable parameters"),
        ({"optimizer": torch.optim.SGD([nn.Parameter(ONE)], lr=1)}, "holds 1 parameters"),
        ({"train_data_loader": None}, "no train_data_loader"),
        ({"train_data_loader": []}, "data loader is empty"),
    ],
)
def test_incomplete_problems_are_refused_by_name(change: dict[str, Any], said: str) -> None:
    module = nn.Linear(2, 1)

    class Single(ImplicitProblem):
        def training_step(self, batch: Any) -> Tensor:
            return self.module(torch.ones(1, 2)).sum()

    given = {
        "module": module,
        "optimizer": torch.optim.SGD(module.parameters(), lr=1),
        "train_data_loader": Endless(),
    } | change
    with pytest.raises(InputError, match=f"'single'.*{said}"):
        Engine([Single("single", **given)], EngineConfig(strategy="cpu")).train_step()


def test_a_loss_that_is_not_a_number_stops_with_problem_and_step() -> None:
    program = engine([problem("single", ONE, lambda w: w.sum() / 0 - w.sum() / 0)], {}, {})
    with pytest.raises(FloatingPointError, match="'single': loss is nan at its step 1"):
        program.run()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"unroll_steps": 0}, "unroll_steps=0: must be >= 1"),
        ({"type": "newton"}, "type='newton': must be one of darts"),
        ({"precision": "fp8"}, "precision='fp8'"),
        ({"neumann_alpha": 0.0}, "neumann_alpha=0.0: must be > 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Config(**settings)


def test_names_that_would_hide_something_are_refused() -> None:
    with pytest.raises(InputError, match="'two words': must be a Python identifier"):
        problem("two words", ONE, lambda w: w.sum())
    with pytest.raises(InputError, match="'run': would hide an attribute of Engine"):
        engine([problem("run", ONE, lambda w: w.sum())], {}, {})
    several = [problem(name, ONE, lambda w: w.sum()) for name in ("lower", "module")]
    with pytest.raises(InputError, match="'module': would hide an attribute of Quadratic"):
        engine(several, {}, {"lower": ["module"]})


def test_early_stopping_waits_for_its_tolerance() -> None:
    class Flat(Engine):
        def validation(self) -> dict[str, float]:
            return {"loss": 1.0}

    single = problem("single", ONE, lambda w: w.sum())
    config = EngineConfig(
        train_iters=100,
        valid_step=1,
        early_stopping=True,
        early_stopping_tolerance=3,
        strategy="cpu",
    )
    program = Flat([single], config)
    program.run()
    assert program.global_step == 4


class Read(ImplicitProblem):
    """Reads its own vector."""

    def training_step(self, batch: Any) -> Tensor:
        return self.module.w.square().sum()


def sharing(stepped: bool, **config: Any) -> Engine:
    """Two problems whose modules hold the same parameter; the second may step it, too."""
    first, second = Vector(ONE), Vector(ONE)
    second.shared = first.w
    held = list(second.parameters()) if stepped else [second.w]
    problems = [
        Read("first", Config(**config), first, torch.optim.SGD(first.parameters(), lr=0.1)),
        Read("second", None, second, torch.optim.SGD(held, lr=0.1)),
    ]
    for item in problems:
        item.train_data_loader = [()]
    return engine(problems, {}, {"first": ["second"]})


def test_a_parameter_of_two_problems_is_stepped_by_one_alone() -> None:
    """Nor may a gradient that one accumulates be mixed with the other's."""
    with pytest.raises(InputError, match=r"'first' and 'second' share 1 .* shape \(2,\)"):
        sharing(stepped=True)
    with pytest.raises(InputError, match="'first' and 'second' share 1 trainable"):
        sharing(stepped=False, gradient_accumulation=2)
    program = sharing(stepped=False)
    program.train_step()
    assert torch.equal(program.first.module.w, 0.8 * ONE)  # type: ignore[attr-defined]
    second = program.second  # type: ignore[attr-defined]
    everything = torch.optim.SGD(second.module.parameters(), lr=0.1)
    with pytest.raises(InputError, match="share 1 trainable"):
        second.set_optimizer(everything)


def test_a_frozen_parameter_may_be_shared() -> None:
    module = Vector(ONE)
    both = [nn.ModuleList([module, Vector(ONE)]) for _ in range(2)]
    module.requires_grad_(False)

    class Sum(ImplicitProblem):
        def training_step(self, batch: Any) -> Tensor:
            return (self.module[0].w * self.module[1].w).sum()

    problems = [
        Sum(name, None, net, torch.optim.SGD(net.parameters(), lr=0.1), train_data_loader=[()])
        for name, net in zip(("first", "second"), both, strict=True)
    ]
    engine(problems, {}, {"first": ["second"]}).train_step()
    assert all(torch.equal(net[1].w, 0.9 * ONE) for net in both)
