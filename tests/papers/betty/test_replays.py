"""Facts of second passes: all of an optimiser step is looked at, with what it had drawn."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from common.training.saved_tensors import SavedTensors
from papers.betty import Config, Engine, ImplicitProblem, IterativeProblem
from tests.papers.betty.programs import Vector, engine, hypergradient_of, normal, problem, spd

BILEVEL: dict[str, Any] = {"u2l": {"upper": ["lower"]}, "l2u": {"lower": ["upper"]}}
DOUBLE = {"dtype": torch.float64}
PARTS, ROWS = 4, 3


class Network(ImplicitProblem):
    """Regression on (n, 4) inputs with a weight for each sample, a function of its input."""

    def training_step(self, batch: Any) -> Tensor:
        x, y = batch
        losses = (self.module(x).squeeze(-1) - y).square()
        return (self.upper(x).squeeze(-1).exp() * losses).mean()  # type: ignore[attr-defined]


class RecordedNetwork(Network, IterativeProblem):
    """The same, its steps recorded."""


class Weights(ImplicitProblem):
    """The network's loss on other samples."""

    def training_step(self, batch: Any) -> Tensor:
        x, y = batch
        return (self.lower(x).squeeze(-1) - y).square().mean()  # type: ignore[attr-defined]


def regression(parts: int, config: dict[str, Any], **settings: Any) -> Engine:
    """The same batches, whole or each in ``parts`` micro-batches."""
    generator = torch.Generator().manual_seed(0)
    rows = 3 * PARTS * ROWS
    sets = [(normal(rows, 4, generator=generator), normal(rows, generator=generator))] * 2
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(4, 5, **DOUBLE), nn.Tanh(), nn.Linear(5, 1, **DOUBLE))
    weigh = nn.Linear(4, 1, **DOUBLE)
    size = PARTS * ROWS // parts
    batches = [[rows.clone() for rows in torch.split(part, size)] for part in sets[0]]
    lower = (RecordedNetwork if config["type"] == "itd" else Network)(
        "lower",
        Config(gradient_accumulation=parts, unroll_steps=2, **config),
        network,
        torch.optim.Adam(network.parameters(), lr=0.03),
        train_data_loader=list(zip(*batches, strict=True)),
    )
    adam = torch.optim.Adam(weigh.parameters(), lr=0.03)
    upper = Weights("upper", None, weigh, adam, train_data_loader=[sets[1]])
    return engine([lower, upper], **BILEVEL, train_iters=6 * parts, **settings)


METHODS: dict[str, dict[str, Any]] = {
    "darts": {"type": "darts"},
    "sama": {"type": "sama", "sama_adam_alpha": 0.01},
    "cg": {"type": "cg", "cg_iterations": 3, "cg_damping": 1.0},
    "neumann": {"type": "neumann", "neumann_iterations": 2, "neumann_alpha": 0.1},
    "itd": {"type": "itd"},
}


@pytest.mark.parametrize("roll_back", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_micro_batches_give_what_their_whole_batch_gives(method: str, roll_back: bool) -> None:
    """Hessian, mixed derivative and a roll-back's repeated step are of the whole batch."""
    ended = []
    for parts in (1, PARTS):
        program = regression(parts, METHODS[method], roll_back=roll_back)
        program.run()
        ended.append([p.detach() for item in program.problems for p in item.parameters()])
    assert_close(ended[0], ended[1], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("method", ["darts", "cg"])
def test_micro_batches_are_looked_at_one_at_a_time(method: str) -> None:
    """What is kept for backward passes is the less, the smaller they are."""
    peaks = []
    for parts in (1, PARTS):
        program = regression(parts, METHODS[method])
        few = [part[:1].clone() for part in program.upper.get_batch()]  # type: ignore[attr-defined]
        program.upper.get_batch = lambda few=few: few  # type: ignore[attr-defined]
        with SavedTensors().watched() as saved:
            program.run()
        peaks.append(saved.peak_bytes)
    assert peaks[1] < peaks[0] / 2


def test_each_micro_batch_is_replayed_with_its_own_noise_and_held_values() -> None:
    """The mean of the parts is the cost that the step itself had."""
    costs = []

    class Noisy(ImplicitProblem):
        def training_step(self, batch: Any) -> Tensor:
            value = self.held("value", torch.rand((), **DOUBLE) * self.module.weight.sum())
            mask = nn.functional.dropout(torch.ones(8, **DOUBLE))
            cost = (mask * self.upper().sum() * value).mean() + self.module.weight.square().sum()  # type: ignore[attr-defined]
            costs.append(float(cost.detach()))
            return cost

    net = nn.Linear(3, 1, bias=False, **DOUBLE)
    sgd = torch.optim.SGD(net.parameters(), lr=0.0)
    config = Config(gradient_accumulation=PARTS)
    lower = Noisy("lower", config, net, sgd, train_data_loader=[()])
    upper = problem("upper", torch.ones(2, **DOUBLE), lambda u, *_: u.sum())
    program = engine([lower, upper], **BILEVEL)
    for _ in range(PARTS):
        program.train_step()
    taken, again = (
        costs[:PARTS],
        [float(lower.replayed_loss(part).detach()) for part in lower.micro_batches],
    )
    assert len(set(taken)) == PARTS
    assert again == [cost / PARTS for cost in taken]


DRAWS: dict[str, Callable[[], float]] = {
    "NumPy": lambda: float(np.random.beta(0.5, 0.5)),
    "Python": lambda: random.betavariate(0.5, 0.5),
    "torch": lambda: float(torch.rand(())),
}


@pytest.mark.parametrize("kind", ["darts", "cg"])
@pytest.mark.parametrize("source", DRAWS)
def test_what_a_cost_draws_is_drawn_again(source: str, kind: Any) -> None:
    """Mixup: C_1 = w'Aw/2 - m w'u with m drawn in each step; -M v = m v, with cg A^-1 v."""
    generator = torch.Generator().manual_seed(2)
    matrix = spd(5, generator)
    start, u = normal(5, generator=generator), normal(5, generator=generator)
    drawn: list[float] = []

    def cost(w: Tensor, u: Tensor) -> Tensor:
        drawn.append(DRAWS[source]())
        return w @ matrix @ w / 2 - drawn[-1] * (w @ u)

    config = Config(kind, cg_iterations=5)
    lower = problem("lower", start, cost, ("upper",), config)
    upper = problem("upper", u, lambda u, w: (w - 1).square().sum() / 2, ("lower",))
    program = engine([lower, upper], **BILEVEL)
    for _ in range(3):
        found, first = hypergradient_of(upper), len(drawn) - (3 if kind == "darts" else 2)
        vector = start - 1 if kind == "darts" else torch.linalg.solve(matrix, start - 1)
        assert_close(found, drawn[first] * vector, rtol=1e-9, atol=1e-9)
        assert set(drawn[first:]) == {drawn[first]}
    assert program.global_step == 0
    assert len(set(drawn)) == 3  # and the generator goes on as if there had been no replay


def test_a_held_value_is_that_of_the_problems_own_step() -> None:
    """The upper asks for the lower cost on another batch: no replay takes what it held there."""

    class Held(ImplicitProblem):
        def training_step(self, batch: Any) -> Tensor:
            held = self.held("batch", batch)
            return (held * self.module.w * self.upper()).sum()  # type: ignore[attr-defined]

    class Asks(ImplicitProblem):
        def training_step(self, batch: Any) -> Tensor:
            return self.lower.training_step(batch)  # type: ignore[attr-defined, no-any-return]

    problems = []
    for kind, name, value in ((Held, "lower", 2.0), (Asks, "upper", 5.0)):
        module = Vector(torch.ones(1, **DOUBLE))
        sgd = torch.optim.SGD(module.parameters(), lr=0.0)
        data = [torch.full((1,), value, **DOUBLE)]
        problems.append(kind(name, None, module, sgd, train_data_loader=data))
    engine(problems, **BILEVEL)
    # Direct: 5 w; -M v with v = 5 u and M = 2, what the lower problem's own step held.
    found = hypergradient_of(problems[1])
    assert_close(found, torch.full((1,), 5.0 - 2.0 * 5.0, **DOUBLE), rtol=1e-9, atol=1e-9)


def test_a_cost_that_is_linear_in_a_weight_has_the_products_of_the_others() -> None:
    """Its gradient by that weight is a constant, which has no graph to go back through."""

    class Affine(ImplicitProblem):
        def training_step(self, batch: Any) -> Tensor:
            curved = (self.module.weight - self.upper()).square().sum() / 2  # type: ignore[attr-defined]
            return curved + self.module.bias.sum()

    net = nn.Linear(3, 1, **DOUBLE)
    sgd = torch.optim.SGD(net.parameters(), lr=0.0)
    config = Config("neumann", neumann_iterations=1)  # v and (I - H) v, here 0: s = v
    lower = Affine("lower", config, net, sgd, train_data_loader=[()])

    class Outer(ImplicitProblem):
        def training_step(self, batch: Any) -> Tensor:
            return self.lower(torch.ones(1, 3, **DOUBLE)).sum()  # type: ignore[attr-defined]

    module = Vector(torch.zeros(3, **DOUBLE))
    still = torch.optim.SGD(module.parameters(), lr=0.0)
    upper = Outer("upper", None, module, still, train_data_loader=[()])
    engine([lower, upper], **BILEVEL)
    assert_close(hypergradient_of(upper), torch.ones(3, **DOUBLE), rtol=1e-9, atol=1e-9)
