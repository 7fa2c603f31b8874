"""One program in this library, in the published package, and in others beside it.

A classifier is trained by Adam with a weight for each sample, which a small network computes from
a number that is known of it. All sides start from the same networks, take the same batches and do
a base step and a meta step; a side is a callable that does one of both.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from itertools import repeat
from typing import Any, Final, Literal, NamedTuple

import torch
from torch import Tensor, nn

from papers.betty import Config, Engine, EngineConfig, ImplicitProblem
from papers.sama import SAMA, Adaptation
from papers.sama.tasks.random_classes import Batch, NetworkSettings, RandomClasses, losses_of

Step = Callable[[], None]
#: Of the engines: ours and the package's have the same names.
Method = Literal["sama", "darts", "neumann", "cg"]
#: Where a direction has no positive curvature our cg stops: this is enough for none.
DAMPING: Final = 10.0


class Library(NamedTuple):
    """What a program is made of: ours, or the published package's classes of the same names."""

    engine: Any
    engine_config: Any
    config: Any
    implicit: Any


OURS: Final = Library(Engine, EngineConfig, Config, ImplicitProblem)


def betty_ml() -> Library | None:
    """The published package, where it is installed; another package is named ``betty`` too."""
    if find_spec("betty") is None or find_spec("betty.hypergradient") is None:
        return None
    from betty import configs, engine, problems
    from betty.logging.logger_base import get_logger

    get_logger().setLevel(logging.WARNING)
    return Library(engine.Engine, engine.EngineConfig, configs.Config, problems.ImplicitProblem)


class Reweighting:
    """The program.

    Args:
        network: of the base level.
        samples: of each batch.
        alpha: length of SAMA's shift.
        double: in float64, with a plain meta step of length 1, whose move is the hypergradient.
    """

    LR, META_LR = 1e-3, 1e-3

    def __init__(
        self,
        network: NetworkSettings,
        samples: int,
        alpha: float = 1.0,
        double: bool = False,
        seed: int = 0,
    ) -> None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        kind = torch.float64 if double else torch.float32
        task = RandomClasses(network, samples, seed, device)
        nn.init.normal_(task.meta.out.weight, std=0.3)  # at zero, the hidden layer has no gradient
        self._net, self._weigh = task.base.to(kind), task.meta.to(kind)
        self.train, self.clean = (
            (x.to(kind) if x.is_floating_point() else x, y) for x, y in (task.train, task.clean)
        )
        with torch.no_grad():
            self._known = losses_of(self._net, self.train)
        self._alpha, self._double = alpha, double
        self.parameters = task.numbers()

    def _fresh(self) -> tuple[nn.Module, nn.Module, torch.optim.Optimizer, torch.optim.Optimizer]:
        net, weigh = copy.deepcopy(self._net), copy.deepcopy(self._weigh)
        base = torch.optim.Adam(net.parameters(), lr=self.LR)
        if self._double:
            return net, weigh, base, torch.optim.SGD(weigh.parameters(), lr=1.0)
        return net, weigh, base, torch.optim.Adam(weigh.parameters(), lr=self.META_LR)

    def _cost(self, net: nn.Module, weigh: nn.Module) -> Tensor:
        cost: Tensor = (weigh(self._known) * losses_of(net, self.train)).mean()
        return cost

    def plain(self) -> Step:
        """A training step of the classifier, without weights."""
        net, _, optimizer, _ = self._fresh()

        def step() -> None:
            optimizer.zero_grad()
            losses_of(net, self.train).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        return step

    def sama(self, adapted: bool = True, before: int = 1) -> tuple[Step, nn.Module]:
        """By this library, and the network of the weights.

        Args:
            adapted: else SAMA-NA.
            before: base steps that are taken at once; one is needed.
        """
        net, weigh, optimizer, above = self._fresh()
        adaptation = Adaptation(optimizer) if adapted else None
        sama = SAMA(net, weigh, adaptation, alpha=self._alpha)
        params = list(net.parameters())

        def base_step() -> None:
            self._cost(net, weigh).backward(inputs=params)  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()

        def step() -> None:
            base_step()
            above.zero_grad()
            sama.backward(lambda: losses_of(net, self.clean).mean(), lambda: self._cost(net, weigh))
            above.step()

        for _ in range(before):
            base_step()
        return step, weigh

    def with_engine(
        self, library: Library, method: Method, before: int = 1
    ) -> tuple[Step, nn.Module]:
        """By an engine. The meta step waits for ``before`` steps, with ``warmup_steps``."""
        net, weigh, below, above = self._fresh()
        program = self

        class Inner(library.implicit):  # type: ignore[misc, name-defined]
            def training_step(self, batch: Batch) -> Tensor:
                cost: Tensor = (self.outer(program._known) * losses_of(self.module, batch)).mean()
                return cost

        class Outer(library.implicit):  # type: ignore[misc, name-defined]
            def training_step(self, batch: Batch) -> Tensor:
                return losses_of(self.inner, batch).mean()

        options: dict[str, Any] = {"darts_alpha": self._alpha, "sama_adam_alpha": self._alpha}
        if library is OURS:  # the package has no damping
            options["cg_damping"] = DAMPING if method == "cg" else 0.0
        config = library.config(
            type=method, unroll_steps=1, warmup_steps=before, neumann_alpha=0.01, **options
        )
        inner = Inner("inner", config, net, below, train_data_loader=repeat(self.train))
        outer = Outer("outer", library.config(), weigh, above, train_data_loader=repeat(self.clean))
        engine = library.engine(
            [inner, outer],
            library.engine_config(),
            {"u2l": {outer: [inner]}, "l2u": {inner: [outer]}},
        )
        engine.train()
        for _ in range(before):
            engine.train_step()
        return engine.train_step, outer.module

    def with_higher(self, before: int = 1) -> tuple[Step, nn.Module]:
        """Through one step by the library higher."""
        import higher

        net, weigh, below, above = self._fresh()
        self._steps(net, weigh, below, before)

        def step() -> None:
            with higher.innerloop_ctx(net, below) as (unrolled, optimizer):
                optimizer.step(self._cost(unrolled, weigh))
                above.zero_grad()
                torch.autograd.backward(losses_of(unrolled, self.clean).mean())
                above.step()
                with torch.no_grad():
                    for p, new in zip(net.parameters(), unrolled.parameters(), strict=True):
                        p.copy_(new)

        return step, weigh

    def with_torchopt(self, before: int = 1) -> tuple[Step, nn.Module]:
        """Through one step by the library TorchOpt."""
        import torchopt

        net, weigh, _, above = self._fresh()
        below = torchopt.MetaAdam(net, lr=self.LR)

        def base_step() -> None:
            below.step(self._cost(net, weigh))

        def cut() -> None:
            torchopt.stop_gradient(net)
            torchopt.stop_gradient(below)

        def step() -> None:
            base_step()
            above.zero_grad()
            torch.autograd.backward(losses_of(net, self.clean).mean())
            above.step()
            cut()

        for _ in range(before):
            base_step()
            cut()
        return step, weigh

    def _steps(
        self, net: nn.Module, weigh: nn.Module, optimizer: torch.optim.Optimizer, count: int
    ) -> None:
        for _ in range(count):
            self._cost(net, weigh).backward(  # type: ignore[no-untyped-call]
                inputs=list(net.parameters())
            )
            optimizer.step()
            optimizer.zero_grad()

    def exact(self, before: int) -> Tensor:
        """Hypergradient through one step of Adam by autograd, flat. Float64 programs only."""
        net, weigh, optimizer, _ = self._fresh()
        self._steps(net, weigh, optimizer, before)
        params, meta = list(net.parameters()), list(weigh.parameters())
        grads = torch.autograd.grad(self._cost(net, weigh), params, create_graph=True)
        (group,) = optimizer.param_groups
        moved = [
            _adam(param, grad, optimizer.state[param], group)
            for param, grad in zip(params, grads, strict=True)
        ]
        names = [name for name, _ in net.named_parameters()]

        def called(x: Tensor) -> Tensor:
            out: Tensor = torch.func.functional_call(
                net, dict(zip(names, moved, strict=True)), (x,)
            )
            return out

        loss = losses_of(called, self.clean).mean()  # type: ignore[arg-type]
        return _flat(torch.autograd.grad(loss, meta))

    def hypergradient(self, made: tuple[Step, nn.Module]) -> Tensor:
        """By how much a meta step of length 1 moves the weights' network, flat."""
        step, weigh = made
        before = _flat([p.detach().clone() for p in weigh.parameters()])
        step()
        return before - _flat([p.detach() for p in weigh.parameters()])


def _adam(
    param: Tensor, grad: Tensor, state: Mapping[str, Any], group: Mapping[str, Any]
) -> Tensor:
    """The weights after a step, as a function of the gradient."""
    (first, second), count = group["betas"], float(state["step"]) + 1
    mean = first * state["exp_avg"] + (1 - first) * grad
    square = second * state["exp_avg_sq"] + (1 - second) * grad * grad
    divisor = (square / (1 - second**count)).sqrt() + group["eps"]
    moved: Tensor = param.detach() - group["lr"] / (1 - first**count) * mean / divisor
    return moved


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])
