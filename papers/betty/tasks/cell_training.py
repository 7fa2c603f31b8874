"""Finished cells, trained from scratch and tested. Source: Liu et al. 2019, Sec. 3.2."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from common.experiments.settings import Settings
from common.tasks.augmentation import crop_and_flip, cutout
from common.tasks.batches import Batches, Split
from common.tasks.scores import accuracy
from common.training import Core
from common.training.data_order import mixed
from papers.betty import Config, Engine, EngineConfig, ImplicitProblem
from papers.betty.tasks.cell_network import CellNetwork
from papers.betty.tasks.search_space import Cells
from papers.betty.tasks.training import choose_strategy


class Stage(Settings):
    """A network and how its weights are trained."""

    channels: int = Field(gt=0, description="of a node in the first cell")
    depth: int = Field(ge=3, description="cells; two of them are reduction cells")
    epochs: int = Field(gt=0)
    batch_size: int = Field(64, gt=0)
    lr: float = Field(0.025, gt=0, description="at the start; falls along a cosine")
    last_lr: float = Field(0.0, ge=0)
    momentum: float = Field(0.9, ge=0)
    weight_decay: float = Field(3e-4, ge=0)
    clip_norm: float = Field(5.0, gt=0, description="largest norm of the gradient")


class TrainingStage(Stage):
    """Training of finished cells."""

    cutout: int = Field(0, ge=0, description="side of the square that is blanked; 0 for none")
    auxiliary_weight: float = Field(0.0, ge=0, description="of the second head's loss; 0: no head")
    drop_path: float = Field(0.0, ge=0, lt=1, description="at the end; grows from 0")


class HalvedData(NamedTuple):
    """Halves of the training set for weights and architecture, and a test set; raw images.

    ``normalised`` turns them to a network's input.
    """

    weights: Split
    architecture: Split
    test: Split
    normalised: Callable[[Tensor], Tensor]
    augmented: bool

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.test.x.shape[1]

    def transform(self, side: int = 0) -> Callable[[Tensor], Tensor]:
        """What is done to a batch of training images; ``side`` of the cutout."""

        def change(images: Tensor) -> Tensor:
            images = self.normalised(crop_and_flip(images) if self.augmented else images)
            return cutout(images, side) if side else images

        return change


class Trainings:
    """Finished cells trained from scratch one after another; part of the resume state.

    Attributes:
        rows: test accuracy (%), parameters and time (s) of those that are done.
    """

    def __init__(self, stage: TrainingStage, data: HalvedData, core: Core) -> None:
        self.rows: list[dict[str, float]] = []
        self._stage, self._data, self._core = stage, data, core
        self._engine: Engine | None = None
        self._seconds = 0.0
        self._left: dict[str, Any] | None = None

    def train(self, cells: Cells) -> None:
        """Train the next cells; go on where a killed run had left them."""
        # Built with random numbers of its own, so that a resumed run goes on with those it had.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mixed(self._core.run.seed, len(self.rows)))
            self._engine = training_program(cells, self._stage, self._data, self._core)
        if self._left is not None:
            self._engine.load_state_dict(self._left)
            self._left = None
        started = perf_counter()

        def after_iteration() -> None:
            nonlocal started
            now = perf_counter()
            self._seconds, started = self._seconds + now - started, now
            self._core.completed_step()

        self._engine.run(after_iteration)
        network = self._engine.problem("classifier").module.eval()
        reached = tested(lambda x: network(x).main, self._data.test, self._data, self._core.device)
        self.rows.append(
            {
                "accuracy_pct": reached,
                "parameters": float(parameters(network)),
                "train_s": self._seconds,
            }
        )
        self._engine, self._seconds = None, 0.0

    def state_dict(self) -> dict[str, Any]:
        """What is done, and the training in progress."""
        engine = self._engine.state_dict() if self._engine else None
        return {"rows": self.rows, "engine": engine, "seconds": self._seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`; the training in progress goes on in :meth:`train`."""
        self.rows = list(state["rows"])
        self._left, self._seconds = state["engine"], float(state["seconds"])


def training_program(cells: Cells, stage: TrainingStage, data: HalvedData, core: Core) -> Engine:
    """A program of one problem: finished cells, trained on both halves."""
    both = [torch.cat(parts) for parts in zip(data.weights, data.architecture, strict=True)]
    batches = Batches(
        *both, size=stage.batch_size, seed=core.run.seed, transform=data.transform(stage.cutout)
    )
    module = CellNetwork(
        cells,
        stage.depth,
        stage.channels,
        data.channels,
        affine=True,
        auxiliary=bool(stage.auxiliary_weight),
    )
    steps = stage.epochs * len(batches)
    config = Config(gradient_clipping=stage.clip_norm, precision=core.precision)  # type: ignore[arg-type]
    problem = CellClassifier(
        "classifier", config, module, *falling_sgd(module, stage, steps), batches
    )
    problem.stage = stage
    return Engine([problem], EngineConfig(train_iters=steps, strategy=choose_strategy(core)))


class CellClassifier(ImplicitProblem):
    """A single problem: cross-entropy of a network of finished cells, and of its second head."""

    stage: TrainingStage

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean loss; paths are dropped the more often, the longer it trains."""
        assert self.engine is not None
        x, y = batch
        self.module.drop_path = self.stage.drop_path * self.count / self.engine.config.train_iters
        main, auxiliary = self.module(x)
        loss = functional.cross_entropy(main, y)
        if auxiliary is not None:
            loss = loss + self.stage.auxiliary_weight * functional.cross_entropy(auxiliary, y)
        return loss


def falling_sgd(
    module: nn.Module, stage: Stage, steps: int
) -> tuple[torch.optim.SGD, torch.optim.lr_scheduler.CosineAnnealingLR]:
    """SGD whose learning rate falls along a cosine."""
    optimizer = torch.optim.SGD(
        module.parameters(), lr=stage.lr, momentum=stage.momentum, weight_decay=stage.weight_decay
    )
    return optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, stage.last_lr)


@torch.no_grad()
def tested(
    logits: Callable[[Tensor], Tensor], split: Split, data: HalvedData, device: torch.device
) -> float:
    """Accuracy (%) on ``split``."""
    parts = [logits(data.normalised(x).to(device)).cpu() for x in torch.split(split.x, 1000)]
    return accuracy(torch.cat(parts), split.y)


def parameters(network: CellNetwork) -> int:
    """Parameters but for those of the second head, which only helps to train."""
    return sum(
        parameter.numel()
        for name, parameter in network.named_parameters()
        if not name.startswith("auxiliary.")
    )
