"""Differentiable architecture search: cells found by a bilevel program, beside random ones.

The inner problem trains a network in which every edge of a cell mixes candidate operations; the
outer problem moves the mixing weights to lower the loss on the other half of the training set. The
cells that keep the strongest candidates are then trained anew on both halves. Source: Choe et al.
2023, Appendix A; Liu et al. 2019 (DARTS).
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.record import DataIdentity
from common.runs.run import Run
from common.tasks.batches import Batches, Split
from common.training import Core, CoreSettings
from common.training.data_order import mixed
from papers.betty import Config, Engine, EngineConfig, ImplicitProblem
from papers.betty.tasks.cell_network import CellNetwork
from papers.betty.tasks.cell_training import (
    HalvedData,
    Stage,
    Trainings,
    TrainingStage,
    falling_sgd,
    tested,
)
from papers.betty.tasks.search_space import (
    OPERATIONS,
    Cells,
    all_candidates,
    derived,
    drawn,
    edge_count,
)
from papers.betty.tasks.training import choose_strategy, run_engine


class SearchStage(Stage):
    """The bilevel program; an epoch is one pass over the architecture's half."""

    last_lr: float = Field(0.001, ge=0)
    unroll_steps: int = Field(1, gt=0)
    architecture_lr: float = Field(3e-4, gt=0)
    architecture_weight_decay: float = Field(1e-3, ge=0)


class ArchitectureSearchSettings(Settings):
    """Data, size of cells, where they come from, and both stages."""

    core: CoreSettings = CoreSettings(global_batch_size=64)
    data: Literal["digits", "cifar10"]
    data_root: str | None = None
    test: int = Field(597, gt=0, lt=1797, description="images of digits; CIFAR-10 has a test set")
    method: Literal["search", "random"]
    random_cells: int = Field(1, gt=0, description="trained by a run of method random")
    nodes: int = Field(gt=0, description="of a cell, its two inputs not counted")
    search: SearchStage
    training: TrainingStage

    @model_validator(mode="after")
    def _check(self) -> ArchitectureSearchSettings:
        if self.data == "digits" and self.training.auxiliary_weight:
            raise ValueError(
                f"training.auxiliary_weight {self.training.auxiliary_weight}: the second head needs"
                " 8x8 features, which 8x8 digits do not give; allowed: 0"
            )
        return self


def run_architecture_search(settings: ArchitectureSearchSettings, run: Run) -> dict[str, float]:
    """Mean test accuracy (%) and parameters of the cells that were found or drawn, time (s)."""
    core = Core(settings.core, run)
    data = load_halves(settings, run)
    trainings = Trainings(settings.training, data, core)
    core.track(trainings=trainings)
    search_s = 0.0
    if settings.method == "search":
        found, search_s = searched(settings, data, core)
        candidates = [found]
    else:
        candidates = [drawn(settings.nodes, run.rng) for _ in range(settings.random_cells)]
        core.restore()
    for cells in candidates[len(trainings.rows) :]:
        trainings.train(cells)
    run.write_json("cells.json", [cells._asdict() for cells in candidates])
    run.write_rows("trainings.csv", trainings.rows)
    core.finish()
    means = {name: mean(row[name] for row in trainings.rows) for name in trainings.rows[0]}
    return means | {"train_s": search_s + means["train_s"]}


def load_halves(settings: ArchitectureSearchSettings, run: Run) -> HalvedData:
    """Draw the halves with the run's seed and note what was read.

    Each digit is turned by a random multiple of 90 degrees: upright ones are nearly linearly
    separable, so that any cell would do.
    """
    rng = np.random.default_rng(run.seed)
    if settings.data == "digits":
        from common.data.images import digits

        images = digits()
        run.uses(DataIdentity(name="scikit-learn digits", real=True, source="bundled"))
        turns = rng.integers(0, 4, len(images))
        turned = np.stack([np.rot90(p, k) for p, k in zip(images.pixels, turns, strict=True)])
        x, y = torch.from_numpy(turned)[:, None], torch.from_numpy(images.labels.copy())
        order = rng.permutation(len(images))
        rest = order[settings.test :]
        test = Split(x[order[: settings.test]], y[order[: settings.test]])
        halves = [Split(x[rows], y[rows]) for rows in (rest[::2], rest[1::2])]
        return HalvedData(halves[0], halves[1], test, lambda pixels: pixels / 16, augmented=False)
    from common.tasks.cifar10_images import normalised_colours, train_and_test

    root = Path(settings.data_root) if settings.data_root else None
    train, test = train_and_test(root, run)
    order = rng.permutation(len(train.y))
    halves = [Split(train.x[rows], train.y[rows]) for rows in (order[::2], order[1::2])]
    return HalvedData(halves[0], halves[1], test, normalised_colours, augmented=True)


class Mixture(nn.Module):
    """Weights of the candidates: a softmax of parameters that start near zero."""

    def __init__(self, nodes: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(1e-3 * torch.randn(2, edge_count(nodes), len(OPERATIONS)))

    def forward(self) -> Tensor:
        """(2, edges, operations) weights, of normal and of reduction cells."""
        return self.logits.softmax(-1)


class Network(ImplicitProblem):
    """Inner problem: cross-entropy of the mixed network on its half."""

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean loss."""
        x, y = batch
        return functional.cross_entropy(self.module(x, self.architecture()).main, y)  # type: ignore[attr-defined]


class Architecture(ImplicitProblem):
    """Outer problem: cross-entropy of the mixed network on the other half."""

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean loss; it depends on the mixture directly, and through the network's optimum."""
        x, y = batch
        return functional.cross_entropy(self.network(x, self()).main, y)  # type: ignore[attr-defined]


def searched(
    settings: ArchitectureSearchSettings, data: HalvedData, core: Core
) -> tuple[Cells, float]:
    """The cells that the search derives, and its time (s).

    Writes ``history.csv``, accuracy of the mixed network on the architecture's half, and
    ``mixture.json``.
    """
    engine = search_program(settings, data, core)
    network, architecture = engine.problem("network"), engine.problem("architecture")

    def evaluate() -> dict[str, float]:
        mixture = architecture()
        found = tested(lambda x: network(x, mixture).main, data.architecture, data, core.device)
        return {"search_accuracy_pct": found}

    every = engine.config.train_iters // min(settings.search.epochs, 10)
    history = run_engine(engine, core, evaluate, every)
    core.run.write_rows("history.csv", history.rows)
    mixture = architecture().detach().cpu()
    core.run.write_json("mixture.json", mixture.tolist())
    return derived(mixture), history.seconds


def search_program(settings: ArchitectureSearchSettings, data: HalvedData, core: Core) -> Engine:
    """The bilevel program: each loop's steps are taken back for one with the new architecture."""
    stage, seed = settings.search, core.run.seed
    batches = [
        Batches(*half, size=stage.batch_size, seed=mixed(seed, number), transform=data.transform())
        for number, half in enumerate((data.weights, data.architecture))
    ]
    loops = stage.epochs * len(batches[1])
    module = CellNetwork(
        all_candidates(settings.nodes), stage.depth, stage.channels, data.channels, affine=False
    )
    network = Network(
        "network",
        Config(
            type="darts",
            unroll_steps=stage.unroll_steps,
            gradient_clipping=stage.clip_norm,
            precision=core.precision,  # type: ignore[arg-type]
        ),
        module,
        *falling_sgd(module, stage, loops),  # one step of each loop is not taken back
        batches[0],
    )
    mixture = Mixture(settings.nodes)
    architecture = Architecture(
        "architecture",
        Config(precision=core.precision),  # type: ignore[arg-type]
        mixture,
        torch.optim.Adam(
            mixture.parameters(),
            lr=stage.architecture_lr,
            betas=(0.5, 0.999),
            weight_decay=stage.architecture_weight_decay,
        ),
        None,
        batches[1],
    )
    config = EngineConfig(
        train_iters=loops * stage.unroll_steps, roll_back=True, strategy=choose_strategy(core)
    )
    dependencies = {"u2l": {"architecture": ["network"]}, "l2u": {"network": ["architecture"]}}
    return Engine([architecture, network], config, dependencies)


PROGRAM = Program(ArchitectureSearchSettings, run_architecture_search)
