"""What programs of the published package call is there, or is refused by name."""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.errors import InputError
from papers.betty import (
    Engine,
    EngineConfig,
    HigherIterativeProblem,
    ImplicitProblem,
    IterativeProblem,
    Problem,
)
from papers.betty.loggers import LineLogger, make_logger
from tests.papers.betty.programs import engine, problem

ONE = torch.ones(2, dtype=torch.float64)


def pair() -> tuple[Problem, Problem]:
    lower = problem("lower", ONE, lambda w, u: (w - u).square().sum(), ("upper",))
    return lower, problem("upper", ONE, lambda u, w: (u * w).sum(), ("lower",))


@pytest.mark.parametrize("child", [True, False])
def test_an_added_edge_is_one_of_the_dependencies(child: bool) -> None:
    lower, upper = pair()
    if child:
        upper.add_child(lower)
        assert (upper.children, lower.parents) == ([lower], [])
    else:
        lower.add_parent(upper)
        assert (upper.children, lower.parents) == ([], [upper])
    program = engine([lower, upper], u2l={"upper": ["lower"]}, l2u={})
    assert program.graph.l2u == {"lower": ["upper"], "upper": []}
    assert (upper.children, lower.parents) == ([lower], [upper])
    program.train_step()
    assert (lower.count, upper.count) == (1, 1)


def test_an_edge_is_added_once_and_before_the_engine() -> None:
    lower, upper = pair()
    upper.add_child(lower)
    with pytest.raises(InputError, match="'upper': 'lower' was added already"):
        upper.add_child(lower)
    lower.add_parent(upper)  # the same edge from its other end, as the published engine does
    program = engine([lower, upper], u2l={"upper": ["lower"]}, l2u={"lower": ["upper"]})
    assert program.graph.l2u["lower"] == ["upper"]
    with pytest.raises(InputError, match=r"'upper': its engine has .* engine.set_dependency"):
        upper.add_child(lower)


def test_recording_by_another_library_is_our_recording() -> None:
    assert issubclass(HigherIterativeProblem, IterativeProblem)


@pytest.mark.parametrize("kind", ["tensorboard", "wandb"])
def test_a_logger_that_is_not_installed_leaves_lines_and_a_warning(
    kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert type(make_logger(kind, first=True)) is LineLogger
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert f"logger_type '{kind}'" in record.getMessage()
    assert f"pip install {kind}" in record.getMessage()


class Square(ImplicitProblem):
    """A single problem."""

    def training_step(self, batch: Any) -> Tensor:
        return self.module(torch.ones(1, 2)).square().sum()  # type: ignore[no-any-return]


def square(kind: type[Problem] = Square, **given: Any) -> Problem:
    module = nn.Linear(2, 1)
    given = {name: make(module) for name, make in given.items()}
    given.setdefault("optimizer", torch.optim.SGD(module.parameters(), lr=0.1))
    return kind("square", None, module, train_data_loader=[()], **given)


def plateau(problem: Problem) -> Any:
    return torch.optim.lr_scheduler.ReduceLROnPlateau(problem.optimizer)


def test_steps_that_need_more_than_a_gradient_are_refused_by_name() -> None:
    several = square(optimizer=lambda module: torch.optim.LBFGS(module.parameters()))
    config = EngineConfig(strategy="cpu", train_iters=3)
    with pytest.raises(InputError, match=r"'square': optimizer LBFGS needs 'closure' .* allowed:"):
        Engine([several], config)
    waiting = square()
    waiting.scheduler = plateau(waiting)
    said = r"'square': scheduler ReduceLROnPlateau needs 'metrics' .* Engine.validation"
    with pytest.raises(InputError, match=said):
        Engine([waiting], config)
    later = square()
    Engine([later], config)
    with pytest.raises(InputError, match=said):
        later.set_scheduler(plateau(later))
    lbfgs = torch.optim.LBFGS(later.module.parameters())
    with pytest.raises(InputError, match="optimizer LBFGS"):
        later.set_optimizer(lbfgs)


def test_such_steps_are_the_programs_own() -> None:
    """LBFGS by a custom step, a plateau by the validation, as the messages say."""

    class Closed(Square):
        def custom_optimizer_step(self) -> None:
            def cost() -> Tensor:
                self.optimizer.zero_grad()
                loss = self.get_loss(())[0]
                loss.backward()  # type: ignore[no-untyped-call]
                return loss

            self.optimizer.step(cost)

    class Watched(Engine):
        def validation(self) -> dict[str, float]:
            self.plateau.step(1.0)
            return {"loss": 1.0}

    closed = square(Closed, optimizer=lambda module: torch.optim.LBFGS(module.parameters()))
    Engine([closed], EngineConfig(strategy="cpu", train_iters=3)).run()
    assert closed.last_loss < 1e-6
    single = square()
    config = EngineConfig(strategy="cpu", train_iters=15, valid_step=1)
    watched = Watched([single], config)
    watched.plateau = plateau(single)
    watched.run()
    assert single.optimizer.param_groups[0]["lr"] == pytest.approx(0.01)


@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1),
        lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step),
        lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 2),
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=9),
        lambda optimizer: torch.optim.lr_scheduler.SequentialLR(
            optimizer,
            [torch.optim.lr_scheduler.ConstantLR(optimizer) for _ in range(2)],
            [1],
        ),
    ],
)
def test_other_schedules_are_taken(make: Any) -> None:
    single = square()
    single.scheduler = make(single.optimizer)
    Engine([single], EngineConfig(strategy="cpu", train_iters=3)).run()
    assert single.count == 3
