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
