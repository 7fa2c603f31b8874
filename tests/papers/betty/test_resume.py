"""A program that goes on from a state ends as one that never stopped, bit for bit; or says why."""

from __future__ import annotations

import copy
import io
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset

from common.errors import InputError
from papers.betty import Config, Engine, EngineConfig, Env, ImplicitProblem, IterativeProblem

ROWS, BATCH, UNROLL, ITERATIONS = 22, 4, 3, 24


def rows() -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, 5, generator=generator)
    return TensorDataset(x, x.sum(1, keepdim=True))


class Noisy(Dataset[Any]):
    """Samples with noise from NumPy's, Python's, torch's and its own generator."""

    def __init__(self) -> None:
        self.rows, self.rng = rows(), np.random.default_rng(3)

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, index: int) -> Any:
        x, y = self.rows[index]
        own = torch.from_numpy(self.rng.standard_normal(5)).float()
        return x + np.random.rand() + random.random() + torch.randn(5) + own, y


class Shuffled:
    """Batches in an order of the global generator, one draw an epoch; no torch loader."""

    def __iter__(self) -> Iterator[Any]:
        x, y = rows().tensors
        for chosen in torch.randperm(ROWS).split(BATCH):
            yield x[chosen], y[chosen]


LOADERS: dict[str, Any] = {
    "shuffle": lambda: DataLoader(rows(), BATCH, shuffle=True),
    "own generator": lambda: DataLoader(
        rows(), BATCH, shuffle=True, generator=torch.Generator().manual_seed(5)
    ),
    "random samples": lambda: DataLoader(Noisy(), BATCH, shuffle=True),
    "set_epoch": lambda: DataLoader(
        rows(), BATCH, sampler=DistributedSampler(rows(), num_replicas=1, rank=0)
    ),
    "no batch sampler": lambda: DataLoader(rows(), None, shuffle=True),
    "two": lambda: (
        DataLoader(rows(), BATCH, shuffle=True),
        DataLoader(rows(), BATCH + 2, shuffle=True),
    ),
    "iterable": Shuffled,
    "list": lambda: list(DataLoader(rows(), BATCH)),
}


class Weights:
    """The lower cost: dropout from torch, label noise from NumPy."""

    def training_step(self, batch: Any) -> Tensor:
        x, y = batch[0] if isinstance(batch[0], list | tuple) else batch
        apart = (self.module(x) - y - 0.1 * np.random.rand()).square().mean()  # type: ignore[attr-defined]
        pairs = zip(self.penalty.parameters(), self.parameters(), strict=True)  # type: ignore[attr-defined]
        return apart + sum(((p * w).square().sum() for p, w in pairs), torch.zeros(()))


class Implicit(Weights, ImplicitProblem):
    """By the implicit function theorem."""


class Recorded(Weights, IterativeProblem):
    """Through the recorded steps."""


class Penalty(ImplicitProblem):
    """The upper cost."""

    def training_step(self, batch: Any) -> Tensor:
        x, y = batch[0] if isinstance(batch[0], list | tuple) else batch
        return (self.weights(x) - y).square().mean()  # type: ignore[attr-defined, no-any-return]


def program(lower: Config, loader: str, env: Env | None = None, **settings: Any) -> Engine:
    """A bilevel program, always from the same start."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    layers = [nn.Sequential(nn.Dropout(0.2), nn.Linear(5, 1)) for _ in range(2)]
    kinds = [Recorded if lower.type == "itd" else Implicit, Penalty]
    problems = []
    for kind, config, layer in zip(kinds, [lower, Config()], layers, strict=True):
        optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
        problems.append(
            kind(  # type: ignore[abstract]
                "penalty" if kind is Penalty else "weights",
                config,
                layer,
                optimizer,
                torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.9),
                LOADERS[loader](),
            )
        )
    edges = {"u2l": {"penalty": ["weights"]}, "l2u": {"weights": ["penalty"]}}
    config = EngineConfig(**{"train_iters": ITERATIONS, "strategy": "cpu", **settings})
    return Engine(problems, config, edges, env)


def end_of(engine: Engine) -> list[Tensor]:
    engine.run()
    weights = [p.detach().clone() for problem in engine.problems for p in problem.parameters()]
    return [*weights, torch.rand(1), torch.from_numpy(np.random.rand(1))]


def kept(engine: Engine) -> Any:
    """Its state, written to a file and read again."""
    file = io.BytesIO()
    torch.save(engine.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("iterations", [UNROLL, 4 * UNROLL, 6 * UNROLL])
def test_data_go_on_where_they_were(loader: str, iterations: int) -> None:
    config = Config(unroll_steps=UNROLL)
    whole = end_of(program(config, loader))
    stopped = program(config, loader, train_iters=iterations)
    stopped.run()
    state = kept(stopped)
    resumed = program(config, loader)
    resumed.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(end_of(resumed), whole, strict=True))


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (Config("itd", unroll_steps=UNROLL), {}),
        (Config("darts", unroll_steps=UNROLL, gradient_accumulation=2), {}),
        (Config("itd", unroll_steps=UNROLL, gradient_accumulation=2), {}),
        (Config("neumann", unroll_steps=UNROLL), {"roll_back": True}),
        (Config("cg", unroll_steps=UNROLL, warmup_steps=4), {}),
        (Config("sama", unroll_steps=UNROLL), {}),
    ],
)
def test_every_kind_of_step_goes_on_where_it_was(config: Config, settings: dict[str, Any]) -> None:
    """The state is taken as a run takes it, wherever it may be."""
    engine, states = program(config, "shuffle", **settings), {}

    def take() -> None:
        if engine.between_loops:
            states[engine.global_step] = copy.deepcopy(engine.state_dict())

    engine.run(take)
    weights = [p.detach().clone() for problem in engine.problems for p in problem.parameters()]
    whole = [*weights, torch.rand(1), torch.from_numpy(np.random.rand(1))]
    loop = UNROLL * config.gradient_accumulation
    warm = [step for step in range(loop, ITERATIONS + 1, loop) if step > config.warmup_steps]
    assert list(states) == warm
    resumed = program(config, "shuffle", **settings)
    for step in (warm[-2], warm[0]):  # in the middle of another run, too
        resumed.load_state_dict(states[step])
        assert resumed.global_step == step
        assert all(torch.equal(a, b) for a, b in zip(end_of(resumed), whole, strict=True))
        resumed.config.train_iters += 1
        resumed.run()  # leaves it inside a loop
        resumed.config.train_iters -= 1


def test_a_state_inside_a_loop_is_refused_by_name() -> None:
    engine = program(Config("itd", unroll_steps=UNROLL), "shuffle", train_iters=UNROLL + 1)
    engine.run()
    assert not engine.between_loops
    with pytest.raises(ValueError, match=r"'weights': is inside .* engine.between_loops"):
        engine.state_dict()


def test_a_loop_that_waits_for_another_is_refused_by_name() -> None:
    class Sum(ImplicitProblem):
        def training_step(self, batch: Any) -> Tensor:
            return self.module(torch.ones(1)).square().sum()  # type: ignore[no-any-return]

    problems = []
    for name, steps in (("slow", 2), ("fast", 1), ("upper", 1)):
        layer = nn.Linear(1, 1)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        config = Config(unroll_steps=steps)
        problems.append(Sum(name, config, layer, optimizer, train_data_loader=[()]))
    config = EngineConfig(train_iters=2, strategy="cpu")
    engine = Engine(problems, config, {"l2u": {"slow": ["upper"], "fast": ["upper"]}})
    engine.run()
    assert not engine.between_loops
    with pytest.raises(ValueError, match="'upper': has yet to read the loop of fast and waits for"):
        engine.state_dict()


class Hidden:
    """A sampler whose order comes from what no state can find."""

    def __init__(self) -> None:
        self.hidden = [np.random.default_rng(0)]

    def __iter__(self) -> Iterator[int]:
        return iter(self.hidden[0].permutation(ROWS).tolist())

    def __len__(self) -> int:
        return ROWS


class HiddenIterable(Hidden):
    """The same, without a torch loader."""

    def __iter__(self) -> Iterator[Any]:
        x, y = rows().tensors
        for index in super().__iter__():
            yield x[index : index + 1], y[index : index + 1]


@pytest.mark.parametrize(
    "loader",
    [
        lambda: DataLoader(rows(), BATCH, sampler=Hidden()),  # type: ignore[arg-type]
        HiddenIterable,
    ],
)
def test_an_order_that_is_not_found_again_is_refused_by_name(
    loader: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOADERS, "hidden", loader)
    engine = program(Config(), "hidden", train_iters=ROWS + 3)
    engine.run()
    state = engine.state_dict()
    with pytest.raises(ValueError, match=r"'weights': .* gives another batch [13] of"):
        program(Config(), "hidden").load_state_dict(state)


def test_what_no_state_holds_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = lambda: DataLoader(rows(), BATCH, num_workers=1)  # noqa: E731
    monkeypatch.setitem(LOADERS, "workers", workers)
    engine = program(Config(), "workers", train_iters=1)
    engine.run()
    with pytest.raises(ValueError, match="'weights': its data loader has num_workers=1"):
        engine.state_dict()

    class Sampled(Env):
        train_data_loader = ((),)

    with pytest.raises(ValueError, match="env: where its train_data_loader is"):
        program(Config(), "list", Sampled()).state_dict()


def test_other_data_and_other_programs_are_refused_by_name() -> None:
    engine = program(Config(), "list", train_iters=3)
    engine.run()
    state = copy.deepcopy(engine.state_dict())
    for loader, said in (("two", "has 1 data loaders, not 2"), ("set_epoch", "another batch 3")):
        with pytest.raises(InputError, match=f"'weights': .*{said}"):
            program(Config(), loader).load_state_dict(state)
    for name in ("random", "global_step"):
        less = {key: value for key, value in state.items() if key != name}
        with pytest.raises(InputError, match=f"the state has no '{name}'"):
            program(Config(), "list").load_state_dict(less)
    state["random"] *= 2
    with pytest.raises(InputError, match="the state is of 2 processes; allowed: as many, not 1"):
        program(Config(), "list").load_state_dict(state)


def test_a_state_belongs_to_none_of_the_programs_that_go_on_from_it() -> None:
    stopped = program(Config(), "shuffle", train_iters=3)
    stopped.run()
    state = kept(stopped)
    ends = []
    for _ in range(2):
        engine = program(Config(), "shuffle")
        engine.load_state_dict(state)
        ends.append(end_of(engine))
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_early_stopping_and_the_env_go_on_where_they_were() -> None:
    class Flat(Engine):
        def validation(self) -> dict[str, float]:
            return {"loss": 1.0}

    class Counting(Env):
        count = 0

        def state_dict(self) -> dict[str, int]:
            return {"count": self.count}

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.count = state["count"]

    def flat(iterations: int) -> Engine:
        engine = program(
            Config(), "list", Counting(), train_iters=iterations, valid_step=1, early_stopping=True
        )
        engine.__class__ = Flat
        return engine

    stopped = flat(4)
    stopped.env.count = 7  # type: ignore[union-attr]
    stopped.run()
    resumed = flat(100)
    resumed.load_state_dict(stopped.state_dict())
    resumed.run()
    assert resumed.global_step == 6  # the first is the best, five are waited for
    assert resumed.env.count == 7  # type: ignore[union-attr]


@pytest.mark.parametrize("bits", [np.random.PCG64, np.random.MT19937, np.random.Philox])
def test_states_of_generators_of_every_kind_are_put_back(bits: Any) -> None:
    from papers.betty.problems.generators import find_generators, get_state, set_state

    class Holder:
        def __init__(self) -> None:
            self.numpy, self.legacy = np.random.Generator(bits(1)), np.random.RandomState(2)
            self.python, self.torch = random.Random(3), torch.Generator().manual_seed(4)

        def draw(self) -> list[float]:
            drawn = [self.numpy.standard_normal(), self.legacy.randn(), self.python.random()]
            return [*drawn, torch.rand(1, generator=self.torch).item()]

    holder = Holder()
    holder.draw()
    states = [get_state(generator) for generator in find_generators([holder, holder])]
    assert len(states) == 4
    first = holder.draw()
    for generator, state in zip(find_generators([holder]), states, strict=True):
        set_state(generator, state)
    assert holder.draw() == first


def test_a_get_batch_of_ones_own_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    class Own(ImplicitProblem):
        def training_step(self, batch: Any) -> Tensor:
            return self.module(batch).square().sum()  # type: ignore[no-any-return]

        def get_batch(self) -> Tensor:
            return torch.ones(1, 1)

    layer = nn.Linear(1, 1)
    own = Own("own", None, layer, torch.optim.SGD(layer.parameters(), lr=0.1))
    engine = Engine([own], EngineConfig(train_iters=1, strategy="cpu"))
    engine.run()
    engine.state_dict()
    assert "'own': its get_batch is its own" in caplog.text
