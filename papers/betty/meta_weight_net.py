"""Meta-Weight-Net on long-tailed images: Table 1.

The inner problem trains a classifier with sample weights that a small network gives from each
sample's loss; the outer problem trains that network on a balanced meta set. Source: Choe et al.
2023, Sec. 4.1; Shu et al. 2019.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from common.config import Program, Settings
from common.core import Core, CoreSettings
from common.data.synthetic import long_tailed
from common.run import DataIdentity, Run
from papers.betty import Config, Engine, EngineConfig, ImplicitProblem, IterativeProblem
from papers.betty.augmentation import crop_and_flip
from papers.betty.batches import Batches, Split, per_class
from papers.betty.configs import Precision, Strategy
from papers.betty.networks import MetaWeightNet, ResNet32, conv_net, mlp
from papers.betty.training import SavedTensors, accuracy, run_engine, strategy_of

FOLDER: Final = Path(__file__).resolve().parent
NETWORKS: Final[dict[str, Callable[[], nn.Module]]] = {
    "mlp": lambda: mlp(64, 64, 10),
    "deep": lambda: mlp(64, *[256] * 6, 10),
    "conv": lambda: conv_net(3, 16, 32, 64),
    "resnet32": ResNet32,
}
Method = Literal["baseline", "clean_only", "itd", "cg", "neumann", "darts"]


class MetaWeightNetSettings(Settings):
    """Data, networks, optimisers, and how the outer problem is differentiated."""

    core: CoreSettings = CoreSettings(global_batch_size=100)
    data: Literal["digits", "cifar10"]
    data_root: str | None = None
    imbalance: float = Field(ge=1, description="largest class over smallest")
    meta_per_class: int = Field(gt=0)
    test_per_class: int = Field(60, gt=0, description="digits only; CIFAR-10 has a test set")
    largest: int = Field(100, gt=0, description="training samples of the largest class")
    network: Literal["mlp", "deep", "conv", "resnet32"]
    precision: Precision = Field("fp32", description="of both problems' forward passes")
    method: Method
    nudge: bool = Field(False, description="leave weights perturbed after a finite difference")
    unroll_steps: int = Field(1, gt=0)
    iterations: int = Field(gt=0, description="optimiser steps of the classifier")
    validate_every: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    gradient_accumulation: int = Field(1, gt=0, description="micro-batches that a batch is cut to")
    meta_batch_size: int = Field(gt=0)
    lr: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0)
    weight_decay: float = Field(5e-4, ge=0)
    milestones: tuple[float, ...] = Field(
        description="share of iterations at which lr falls to 1/10"
    )
    meta_lr: float = Field(gt=0)
    meta_hidden: int = Field(100, gt=0)
    alpha: float = Field(0.01, gt=0, description="perturbation of finite differences")
    normalise: bool = Field(False, description="divide the weights by their mean over the batch")

    @model_validator(mode="after")
    def _check(self) -> MetaWeightNetSettings:
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"gradient_accumulation: {self.gradient_accumulation} must divide batch_size,"
                f" {self.batch_size}"
            )
        return self


class Data(NamedTuple):
    """Long-tailed training set, balanced meta set, test set."""

    train: Split
    meta: Split
    test: Split
    augment: Any


def run_meta_weight_net(settings: MetaWeightNetSettings, run: Run) -> dict[str, float]:
    """Train, and return final and best test accuracy (%), time (s) and memory (bytes)."""
    core = Core(settings.core, run)
    data = load(settings, run)
    strategy = strategy_of(core)
    engine = program(settings, NETWORKS[settings.network](), data, run.seed, strategy)
    classifier = engine.problem("classifier")
    test = Split(*(part.to(core.device) for part in data.test))

    def evaluate() -> dict[str, float]:
        parts = [classifier(x) for x in torch.split(test.x, 1000)]
        return {"accuracy_pct": accuracy(torch.cat(parts), test.y)}

    every = settings.validate_every * settings.gradient_accumulation
    history = run_engine(engine, core, evaluate, every)
    run.write_rows("history.csv", history.rows)
    saved_bytes = meta_step_bytes(settings, data, strategy)
    core.finish()
    reached = [row["accuracy_pct"] for row in history.rows]
    return {
        "accuracy_pct": reached[-1],
        "best_accuracy_pct": max(reached),
        "train_s": history.seconds,
        "saved_bytes": float(saved_bytes),
    }


def load(settings: MetaWeightNetSettings, run: Run) -> Data:
    """Draw the sets with the run's seed and note what was read."""
    rng = np.random.default_rng(run.seed)
    if settings.data == "digits":
        from common.data.images import digits

        images = digits()
        run.uses(DataIdentity(name="scikit-learn digits", real=True, source="bundled"))
        x = torch.from_numpy(images.pixels.reshape(len(images.pixels), -1) / 16).float()
        test, rest = per_class(images.labels, settings.test_per_class, rng)
        train, meta = tail_and_meta(images.labels, rest, settings, rng)
        labels = torch.from_numpy(images.labels.copy())
        sets = [Split(x[i], labels[i]) for i in (train, meta, test)]
        return Data(sets[0], sets[1], sets[2], None)
    from papers.betty.cifar10_images import normalised_colours, train_and_test

    everything, test_set = train_and_test(settings.data_root, run)
    rows = np.arange(len(everything.y))
    parts = tail_and_meta(everything.y.numpy(), rows, settings, rng)
    sets = [*(Split(everything.x[part], everything.y[part]) for part in parts), test_set]
    sets = [Split(normalised_colours(x), y) for x, y in sets]
    return Data(sets[0], sets[1], sets[2], partial(crop_and_flip, padding="reflect"))


def tail_and_meta(
    labels: np.ndarray, among: np.ndarray, settings: MetaWeightNetSettings, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(long-tailed training indices, balanced meta indices), disjoint, of ``among``."""
    meta, rest = per_class(labels[among], settings.meta_per_class, rng)
    left = labels[among][rest]
    largest = min(settings.largest, int(np.bincount(left).min()))
    tail = long_tailed(left, settings.imbalance, rng, largest=largest)
    return among[rest[tail]], among[meta]


class Classifier:
    """Inner problem: cross-entropy of samples weighted by what ``reweight`` makes of their loss."""

    normalise = False
    weighted = True

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Weighted mean loss."""
        x, y = batch
        losses = functional.cross_entropy(self.module(x), y, reduction="none")  # type: ignore[attr-defined]
        if not self.weighted:
            return losses.mean()
        weights = self.reweight(self.held("losses", losses))  # type: ignore[attr-defined]
        if self.normalise:
            weights = weights / weights.mean()
        mean: Tensor = (weights * losses).mean()
        return mean


class ImplicitClassifier(Classifier, ImplicitProblem):
    """Differentiated implicitly."""


class IterativeClassifier(Classifier, IterativeProblem):
    """Differentiated through its steps."""


class Reweight(ImplicitProblem):
    """Outer problem: cross-entropy of the classifier on the balanced meta set."""

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean loss of the classifier."""
        x, y = batch
        return functional.cross_entropy(self.classifier(x), y)  # type: ignore[attr-defined]


def program(
    settings: MetaWeightNetSettings,
    network: nn.Module,
    data: Data,
    seed: int,
    strategy: Strategy = "cpu",
) -> Engine:
    """The bilevel program; a single problem for ``baseline`` and ``clean_only``."""
    single = settings.method in ("baseline", "clean_only")
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    milestones = [round(share * settings.iterations) for share in settings.milestones]
    source = data.meta if settings.method == "clean_only" else data.train
    kind = IterativeClassifier if settings.method == "itd" else ImplicitClassifier
    classifier = kind(
        "classifier",
        Config(
            type="darts" if single else settings.method,  # type: ignore[arg-type]
            unroll_steps=settings.unroll_steps,
            gradient_accumulation=settings.gradient_accumulation,
            darts_alpha=settings.alpha,
            darts_multitask=settings.nudge,
            precision=settings.precision,
        ),
        network,
        optimizer,
        torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones),
        Batches(
            *source,
            size=settings.batch_size // settings.gradient_accumulation,
            seed=seed,
            transform=data.augment,
        ),
    )
    classifier.weighted, classifier.normalise = not single, settings.normalise
    config = EngineConfig(
        train_iters=settings.iterations * settings.gradient_accumulation, strategy=strategy
    )
    if single:
        return Engine([classifier], config)
    weights = MetaWeightNet(settings.meta_hidden)
    reweight = Reweight(
        "reweight",
        Config(precision=settings.precision),
        weights,
        torch.optim.Adam(weights.parameters(), lr=settings.meta_lr),
        None,
        Batches(*data.meta, size=settings.meta_batch_size, seed=seed + 1, transform=data.augment),
    )
    return Engine(
        [reweight, classifier],
        config,
        {"u2l": {"reweight": ["classifier"]}, "l2u": {"classifier": ["reweight"]}},
    )


def meta_step_bytes(settings: MetaWeightNetSettings, data: Data, strategy: Strategy = "cpu") -> int:
    """Bytes kept for backward passes over one inner loop and its meta step, on a fresh network."""
    torch.manual_seed(0)
    engine = program(settings, NETWORKS[settings.network](), data, 0, strategy)
    engine.train()
    with SavedTensors().watched() as saved:
        for _ in range(settings.unroll_steps * settings.gradient_accumulation):
            engine.train_step()
        return saved.peak_bytes


PROGRAM = Program(MetaWeightNetSettings, run_meta_weight_net)
