"""Differentiable architecture search of a small cell on turned digits.

The inner problem trains a network in which every edge of a cell mixes candidate operations; the
outer problem moves the mixing weights to lower the loss on the other half of the data. The cell
that keeps the strongest candidate of each edge is then trained anew. Source: Choe et al. 2023,
Appendix A; Liu et al. 2019 (DARTS).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import mean
from typing import Final, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from common.config import Program, Settings
from common.core import Core, CoreSettings
from common.core.data_order import mixed
from common.run import DataIdentity, Run
from papers.betty import Config, Engine, EngineConfig, ImplicitProblem
from papers.betty.batches import Batches
from papers.betty.configs import Strategy
from papers.betty.training import accuracy, run_engine, strategy_on


class ArchitectureSearchSettings(Settings):
    """Data, the cell, both optimisers of the search, and how cells are trained afterwards."""

    core: CoreSettings = CoreSettings(device="cpu", global_batch_size=64)
    test: int = Field(597, gt=0, description="images; half of the others train each problem")
    width: int = Field(32, gt=0)
    cells: int = Field(2, gt=0, description="that share one architecture")
    nodes: int = Field(2, gt=0, description="of a cell, its input not counted")
    unroll_steps: int = Field(1, gt=0)
    architecture_steps: int = Field(gt=0)
    batch_size: int = Field(64, gt=0)
    lr: float = Field(0.1, gt=0, description="of the weights at the start; falls along a cosine")
    last_lr: float = Field(0.001, gt=0)
    momentum: float = Field(0.9, ge=0)
    weight_decay: float = Field(3e-4, ge=0)
    clip_norm: float = Field(5.0, gt=0, description="largest norm of the weights' gradient")
    warmup_steps: int = Field(
        0, ge=0, description="of the weights, before the architecture's first"
    )
    architecture_lr: float = Field(gt=0)
    architecture_weight_decay: float = Field(1e-3, ge=0)
    retrain_steps: int = Field(gt=0)
    random_cells: int = Field(gt=0, description="cells drawn and trained to compare with")

    @model_validator(mode="after")
    def _check(self) -> ArchitectureSearchSettings:
        if self.warmup_steps % self.unroll_steps:
            raise ValueError(
                f"warmup_steps {self.warmup_steps}: must be a multiple of unroll_steps"
                f" {self.unroll_steps}"
            )
        return self


class Split(NamedTuple):
    """Inputs and labels."""

    x: Tensor
    y: Tensor


class Data(NamedTuple):
    """Halves for weights and for the architecture, and a test set."""

    weights: Split
    architecture: Split
    test: Split


class Zero(nn.Module):
    """No connection."""

    def forward(self, x: Tensor) -> Tensor:
        """Zeros like ``x``."""
        return torch.zeros_like(x)


def linear(width: int, activation: str) -> nn.Linear:
    """A layer whose outputs keep the scale of its inputs after ``activation``.

    With PyTorch's default they shrink, and every search would end at ``identity``.
    """
    layer = nn.Linear(width, width)
    gain = nn.init.calculate_gain(activation)  # type: ignore[arg-type]
    nn.init.orthogonal_(layer.weight, gain)
    return layer


#: Candidate operations of an edge, by the width of its nodes.
OPERATIONS: Final[dict[str, Callable[[int], nn.Module]]] = {
    "zero": lambda _width: Zero(),
    "identity": lambda _width: nn.Identity(),
    "relu": lambda width: nn.Sequential(linear(width, "relu"), nn.ReLU()),
    "tanh": lambda width: nn.Sequential(linear(width, "tanh"), nn.Tanh()),
}
#: What an edge of a finished cell can be.
CONNECTIONS: Final = tuple(name for name in OPERATIONS if name != "zero")


def edges(nodes: int) -> list[tuple[int, int]]:
    """(from, to) of every edge: each node reads the cell's input (0) and all nodes before it."""
    return [(start, end) for end in range(1, nodes + 1) for start in range(end)]


class Cell(nn.Module):
    """Nodes that sum what their edges give; the mean of the nodes is the output.

    Args:
        candidates: names of the operations that each edge mixes; one each in a finished cell.
    """

    def __init__(self, width: int, nodes: int, candidates: Sequence[Sequence[str]]) -> None:
        super().__init__()
        self.edges = edges(nodes)
        self.operations = nn.ModuleList(
            nn.ModuleList(OPERATIONS[name](width) for name in names) for names in candidates
        )

    def forward(self, x: Tensor, mixture: Tensor) -> Tensor:
        """(n, width) and (edges, candidates) weights -> (n, width)."""
        nodes = [x, *[torch.zeros_like(x)] * self.edges[-1][1]]
        for (start, end), operations, weights in zip(
            self.edges, self.operations, mixture, strict=True
        ):
            given = [
                weight * operation(nodes[start])
                for weight, operation in zip(weights, operations.children(), strict=True)
            ]
            nodes[end] = nodes[end] + torch.stack(given).sum(0)
        return torch.stack(nodes[1:]).mean(0)


class CellNetwork(nn.Module):
    """Linear stem, cells of one architecture, linear head; 8x8 images to 10 classes."""

    def __init__(
        self, width: int, cells: int, nodes: int, candidates: Sequence[Sequence[str]]
    ) -> None:
        super().__init__()
        self.stem = nn.Linear(64, width)
        self.cells = nn.ModuleList(Cell(width, nodes, candidates) for _ in range(cells))
        self.head = nn.Linear(width, 10)
        self.shape = (len(candidates), len(candidates[0]))

    def forward(self, x: Tensor, mixture: Tensor | None = None) -> Tensor:
        """(n, 64) -> (n, 10) logits; without ``mixture`` every candidate has the weight 1."""
        mixture = x.new_ones(self.shape) if mixture is None else mixture
        x = self.stem(x)
        for cell in self.cells:
            x = cell(x, mixture)
        logits: Tensor = self.head(x)
        return logits


class Architecture(nn.Module):
    """Weights of the candidates of each edge: a softmax of parameters that start near zero."""

    def __init__(self, nodes: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(1e-3 * torch.randn(len(edges(nodes)), len(OPERATIONS)))

    def forward(self) -> Tensor:
        """(edges, candidates) weights."""
        return self.logits.softmax(1)


def derived(mixture: Tensor) -> tuple[str, ...]:
    """Strongest candidate of each edge, ``zero`` left out. Liu et al. 2019, Sec. 2.4."""
    names = list(OPERATIONS)
    allowed = [names.index(name) for name in CONNECTIONS]
    return tuple(CONNECTIONS[place] for place in mixture[:, allowed].argmax(1).tolist())


def run_architecture_search(settings: ArchitectureSearchSettings, run: Run) -> dict[str, float]:
    """Test accuracy (%) of the derived cell and of random ones, weight of ``zero``, time (s)."""
    core = Core(settings.core, run)
    data = load(settings, run)
    engine = program(settings, data, run.seed, strategy_on(core.device))
    network, architecture = engine.problem("network"), engine.problem("architecture")
    held_out = Split(*(part.to(core.device) for part in data.architecture))

    def evaluate() -> dict[str, float]:
        mixture = architecture()
        found = accuracy(network(held_out.x, mixture), held_out.y)
        zero = float(mixture[:, list(OPERATIONS).index("zero")].max())
        return {"search_accuracy_pct": found, "zero_weight": zero}

    every = settings.unroll_steps * max(1, settings.architecture_steps // 4)
    history = run_engine(engine, core, evaluate, every)
    mixture = architecture().detach().cpu()
    cell = derived(mixture)
    draws = run.rng.choice(CONNECTIONS, (settings.random_cells, len(cell)))
    random_cells = [tuple(map(str, names)) for names in draws]
    reached = [
        retrained(names, settings, data, mixed(run.seed, number), core.device)
        for number, names in enumerate([cell, *random_cells])
    ]
    run.write_rows("history.csv", history.rows)
    run.write_json(
        "cells.json",
        {
            "mixture": mixture.tolist(),
            "cells": [cell, *random_cells],
            "accuracies_pct": reached,
        },
    )
    core.finish()
    return {
        "accuracy_pct": reached[0],
        "random_accuracy_pct": mean(reached[1:]),
        "zero_weight": history.rows[-1]["zero_weight"],
        "train_s": history.seconds,
    }


def load(settings: ArchitectureSearchSettings, run: Run) -> Data:
    """Digits, each turned by a random multiple of 90 degrees, split with the run's seed.

    Upright digits are nearly linearly separable, so that any cell would do.
    """
    from common.data.images import digits

    images = digits()
    run.uses(DataIdentity(name="scikit-learn digits", real=True, source="bundled"))
    rng = np.random.default_rng(run.seed)
    turns = rng.integers(0, 4, len(images))
    turned = np.stack([np.rot90(p, k) for p, k in zip(images.pixels, turns, strict=True)])
    x = torch.from_numpy(turned.reshape(len(images), 64) / 16).float()
    y = torch.from_numpy(images.labels.copy())
    order = rng.permutation(len(images))
    test, rest = order[: settings.test], order[settings.test :]
    halves = (rest[::2], rest[1::2])
    return Data(*(Split(x[rows], y[rows]) for rows in (*halves, test)))


class Network(ImplicitProblem):
    """Inner problem: cross-entropy of the mixed network on its half."""

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean loss."""
        x, y = batch
        return functional.cross_entropy(self.module(x, self.architecture()), y)  # type: ignore[attr-defined]


class Mixture(ImplicitProblem):
    """Outer problem: cross-entropy of the mixed network on the other half."""

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean loss; it depends on the mixture directly, and through the network's optimum."""
        x, y = batch
        return functional.cross_entropy(self.network(x, self()), y)  # type: ignore[attr-defined]


def program(
    settings: ArchitectureSearchSettings, data: Data, seed: int, strategy: Strategy = "cpu"
) -> Engine:
    """The bilevel program: each loop's steps are taken back for one with the new architecture."""
    candidates = [list(OPERATIONS)] * len(edges(settings.nodes))
    module = CellNetwork(settings.width, settings.cells, settings.nodes, candidates)
    steps = settings.warmup_steps + settings.architecture_steps  # that are not taken back
    optimizer, scheduler = falling_sgd(module, settings, steps)
    network = Network(
        "network",
        Config(
            type="darts",
            unroll_steps=settings.unroll_steps,
            gradient_clipping=settings.clip_norm,
            warmup_steps=settings.warmup_steps,
        ),
        module,
        optimizer,
        scheduler,
        Batches(*data.weights, size=settings.batch_size, seed=seed),
    )
    mixing = Architecture(settings.nodes)
    architecture = Mixture(
        "architecture",
        Config(),
        mixing,
        torch.optim.Adam(
            mixing.parameters(),
            lr=settings.architecture_lr,
            betas=(0.5, 0.999),
            weight_decay=settings.architecture_weight_decay,
        ),
        train_data_loader=Batches(
            *data.architecture, size=settings.batch_size, seed=mixed(seed, 1)
        ),
    )
    iterations = settings.warmup_steps + settings.architecture_steps * settings.unroll_steps
    config = EngineConfig(train_iters=iterations, roll_back=True, strategy=strategy)
    dependencies = {"u2l": {"architecture": ["network"]}, "l2u": {"network": ["architecture"]}}
    return Engine([architecture, network], config, dependencies)


def falling_sgd(
    module: nn.Module, settings: ArchitectureSearchSettings, steps: int
) -> tuple[torch.optim.SGD, torch.optim.lr_scheduler.CosineAnnealingLR]:
    """SGD whose learning rate falls along a cosine, for the search and for retraining."""
    optimizer = torch.optim.SGD(
        module.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, settings.last_lr)


def retrained(
    cell: Sequence[str],
    settings: ArchitectureSearchSettings,
    data: Data,
    seed: int,
    device: torch.device,
) -> float:
    """Test accuracy (%) of a finished cell trained from scratch on both halves."""
    torch.manual_seed(seed)
    candidates = [[name] for name in cell]
    network = CellNetwork(settings.width, settings.cells, settings.nodes, candidates).to(device)
    optimizer, scheduler = falling_sgd(network, settings, settings.retrain_steps)
    both = [torch.cat(parts) for parts in zip(data.weights, data.architecture, strict=True)]
    batches = Batches(*both, size=settings.batch_size, seed=seed)
    done = 0
    while done < settings.retrain_steps:
        for x, y in batches:
            loss = functional.cross_entropy(network(x.to(device)), y.to(device))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)
            optimizer.step()
            scheduler.step()
            done += 1
            if done == settings.retrain_steps:
                break
    with torch.no_grad():
        return accuracy(network(data.test.x.to(device)), data.test.y.to(device))


PROGRAM = Program(ArchitectureSearchSettings, run_architecture_search)
