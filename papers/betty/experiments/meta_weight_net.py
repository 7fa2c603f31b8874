"""Meta-Weight-Net on long-tailed images, Table 1, and on sentences with BERT, Table 2.

The inner problem trains a classifier with sample weights that a small network gives from each
sample's loss; the outer problem trains that network on a balanced meta set. Source: Choe et al.
2023, Sec. 4.1 and 4.2; Shu et al. 2019.
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

from common.data.synthetic import long_tailed
from common.experiments.settings import Settings
from common.runs.programs import Program
from common.runs.record import DataIdentity
from common.runs.run import Run
from common.tasks.augmentation import crop_and_flip
from common.tasks.batches import Batches, Split, per_class
from common.tasks.bert_settings import BertSettings
from common.tasks.networks import ChanceWeightNet, MetaWeightNet, ResNet32, conv_net, mlp
from common.tasks.scores import accuracy
from common.training import Core, CoreSettings
from common.training.meters import peak_gpu_bytes
from common.training.saved_tensors import SavedTensors
from papers.betty import Config, Engine, EngineConfig, ImplicitProblem
from papers.betty.configs import Precision, Strategy
from papers.betty.tasks.training import choose_strategy, recorded, run_engine

CLASSIFIERS: Final[dict[str, Callable[[], nn.Module]]] = {
    "mlp": lambda: mlp(64, 64, 10),
    "deep": lambda: mlp(64, *[256] * 6, 10),
    "conv": lambda: conv_net(3, 16, 32, 64),
    "resnet32": ResNet32,
}
DerivativeMethod = Literal["baseline", "clean_only", "itd", "cg", "neumann", "darts"]


class MetaWeightNetSettings(Settings):
    """Data, networks, optimisers, and how the outer problem is differentiated."""

    core: CoreSettings = CoreSettings(global_batch_size=100)
    data: Literal["digits", "cifar10", "sst2"]
    data_root: str | None = None
    imbalance: float = Field(ge=1, description="largest class over smallest")
    meta_per_class: int = Field(gt=0)
    test_per_class: int = Field(60, gt=0, description="digits only; the others have a test set")
    tested_at_once: int = Field(1000, gt=0, description="test samples of a forward pass")
    largest: int = Field(
        100, gt=0, description="training samples of the largest class; not of sst2"
    )
    network: Literal["mlp", "deep", "conv", "resnet32", "bert"]
    bert: BertSettings = BertSettings()
    precision: Precision = Field("fp32", description="of both problems' forward passes")
    method: DerivativeMethod
    nudge: bool = Field(False, description="leave weights perturbed after a finite difference")
    unroll_steps: int = Field(1, gt=0)
    iterations: int = Field(gt=0, description="optimiser steps of the classifier")
    validate_every: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    gradient_accumulation: int = Field(1, gt=0, description="micro-batches that a batch is cut to")
    meta_batch_size: int = Field(gt=0)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.1, gt=0)
    momentum: float = Field(0.9, ge=0, description="sgd only")
    weight_decay: float = Field(5e-4, ge=0, description="adamw: of matrices alone")
    gradient_clipping: float = Field(0.0, ge=0, description="largest norm in both; 0: none")
    milestones: tuple[float, ...] = Field(
        description="share of iterations at which lr falls to 1/10"
    )
    meta_lr: float = Field(gt=0)
    meta_weight_decay: float = Field(0.0, ge=0)
    meta_hidden: int = Field(100, gt=0)
    weigh_by: Literal["loss", "chances"] = Field(
        "loss", description="what the weight network reads of a sample"
    )
    alpha: float = Field(0.01, gt=0, description="perturbation of finite differences")
    normalise: bool = Field(False, description="divide the weights by their mean over the batch")

    @property
    def root(self) -> Path | None:
        """Where data sets lie; None: where the registry looks."""
        return Path(self.data_root) if self.data_root else None

    @model_validator(mode="after")
    def _check(self) -> MetaWeightNetSettings:
        if self.batch_size % self.gradient_accumulation:
            raise ValueError(
                f"gradient_accumulation: {self.gradient_accumulation} must divide batch_size,"
                f" {self.batch_size}"
            )
        if (self.data == "sst2") != (self.network == "bert"):
            raise ValueError(f"{self.data} cannot be read by {self.network}; sst2 goes with bert")
        return self


class ImbalancedData(NamedTuple):
    """Long-tailed training set, balanced meta set, test set."""

    train: Split
    meta: Split
    test: Split
    augment: Any


def run_meta_weight_net(settings: MetaWeightNetSettings, run: Run) -> dict[str, float]:
    """Train, and return final and best test accuracy (%), time (s) and memory (bytes).

    Memory is what is kept for backward passes and, on a GPU, also the most that tensors held.
    """
    core = Core(settings.core, run)
    data = load_imbalanced(settings, run)
    strategy = choose_strategy(core)
    engine = program(settings, make_network(settings), data, run.seed, strategy)
    classifier = engine.problem("classifier")
    test = Split(*(part.to(core.device) for part in data.test))

    def evaluate() -> dict[str, float]:
        parts = [classifier(x) for x in torch.split(test.x, settings.tested_at_once)]
        return {"accuracy_pct": accuracy(torch.cat(parts), test.y)}

    every = settings.validate_every * settings.gradient_accumulation
    history = run_engine(engine, core, evaluate, every)
    run.write_rows("history.csv", history.rows)
    gpu_bytes = peak_gpu_bytes(core.device)
    saved_bytes = meta_step_bytes(settings, data, strategy)
    core.finish()
    reached = [row["accuracy_pct"] for row in history.rows]
    metrics = {
        "accuracy_pct": reached[-1],
        "best_accuracy_pct": max(reached),
        "train_s": history.seconds,
        "saved_bytes": float(saved_bytes),
    }
    if core.device.type == "cuda":
        metrics["gpu_bytes"] = float(gpu_bytes)
    return metrics


def make_network(settings: MetaWeightNetSettings) -> nn.Module:
    """A new classifier."""
    if settings.network == "bert":
        from common.tasks.text_classifier import TextClassifier, read_bert

        return TextClassifier(read_bert(settings.bert, settings.root), classes=2)
    return CLASSIFIERS[settings.network]()


def load_imbalanced(settings: MetaWeightNetSettings, run: Run) -> ImbalancedData:
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
        return ImbalancedData(sets[0], sets[1], sets[2], None)
    if settings.data == "sst2":
        from papers.betty.tasks.sentiment import load_sst2

        texts = load_sst2(
            settings.bert, settings.imbalance, settings.meta_per_class, settings.root, run, rng
        )
        return ImbalancedData(*texts, augment=None)
    from common.tasks.cifar10_images import normalised_colours, train_and_test

    everything, test_set = train_and_test(settings.root, run)
    rows = np.arange(len(everything.y))
    parts = tail_and_meta(everything.y.numpy(), rows, settings, rng)
    sets = [*(Split(everything.x[part], everything.y[part]) for part in parts), test_set]
    sets = [Split(normalised_colours(x), y) for x, y in sets]
    return ImbalancedData(sets[0], sets[1], sets[2], partial(crop_and_flip, padding="reflect"))


def tail_and_meta(
    labels: np.ndarray, among: np.ndarray, settings: MetaWeightNetSettings, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(long-tailed training indices, balanced meta indices), disjoint, of ``among``."""
    meta, rest = per_class(labels[among], settings.meta_per_class, rng)
    left = labels[among][rest]
    largest = min(settings.largest, int(np.bincount(left).min()))
    tail = long_tailed(left, settings.imbalance, rng, largest=largest)
    return among[rest[tail]], among[meta]


class WeightedClassifier:
    """Inner problem: cross-entropy of samples weighted by what ``reweight`` makes of their loss."""

    normalise = False
    weighted = True
    by_chances = False

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Weighted mean loss."""
        x, y = batch
        logits = self.module(x)  # type: ignore[attr-defined]
        losses = functional.cross_entropy(logits, y, reduction="none")
        if not self.weighted:
            return losses.mean()
        read = logits.softmax(dim=1) if self.by_chances else losses
        weights = self.reweight(self.held("read", read))  # type: ignore[attr-defined]
        if self.normalise:
            weights = weights / weights.mean()
        mean: Tensor = (weights * losses).mean()
        return mean


class ImplicitClassifier(WeightedClassifier, ImplicitProblem):
    """Differentiated implicitly."""


class ReweightLongTail(ImplicitProblem):
    """Outer problem: cross-entropy of the classifier on the balanced meta set."""

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean loss of the classifier."""
        x, y = batch
        return functional.cross_entropy(self.classifier(x), y)  # type: ignore[attr-defined]


def program(
    settings: MetaWeightNetSettings,
    network: nn.Module,
    data: ImbalancedData,
    seed: int,
    strategy: Strategy = "cpu",
) -> Engine:
    """The bilevel program; a single problem for ``baseline`` and ``clean_only``."""
    single = settings.method in ("baseline", "clean_only")
    optimizer = make_optimizer(settings, network)
    milestones = [round(share * settings.iterations) for share in settings.milestones]
    source = data.meta if settings.method == "clean_only" else data.train
    kind = recorded(WeightedClassifier) if settings.method == "itd" else ImplicitClassifier
    classifier = kind(
        "classifier",
        Config(
            type="darts" if single else settings.method,  # type: ignore[arg-type]
            unroll_steps=settings.unroll_steps,
            gradient_accumulation=settings.gradient_accumulation,
            darts_alpha=settings.alpha,
            darts_multitask=settings.nudge,
            precision=settings.precision,
            gradient_clipping=settings.gradient_clipping,
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
    classifier.by_chances = settings.weigh_by == "chances"
    config = EngineConfig(
        train_iters=settings.iterations * settings.gradient_accumulation, strategy=strategy
    )
    if single:
        return Engine([classifier], config)
    weights = weight_network(settings, classes=int(data.meta.y.max()) + 1)
    reweight = ReweightLongTail(
        "reweight",
        Config(precision=settings.precision, gradient_clipping=settings.gradient_clipping),
        weights,
        torch.optim.Adam(
            weights.parameters(), lr=settings.meta_lr, weight_decay=settings.meta_weight_decay
        ),
        None,
        Batches(*data.meta, size=settings.meta_batch_size, seed=seed + 1, transform=data.augment),
    )
    return Engine(
        [reweight, classifier],
        config,
        {"u2l": {"reweight": ["classifier"]}, "l2u": {"classifier": ["reweight"]}},
    )


def weight_network(settings: MetaWeightNetSettings, classes: int) -> nn.Module:
    """What gives each sample its weight."""
    if settings.weigh_by == "chances":
        return ChanceWeightNet(classes, settings.meta_hidden)
    return MetaWeightNet(settings.meta_hidden)


def make_optimizer(settings: MetaWeightNetSettings, network: nn.Module) -> torch.optim.Optimizer:
    """The classifier's. AdamW spares biases and normalisations, as is usual for transformers."""
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            network.parameters(),
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
    vectors = [p for p in network.parameters() if p.ndim < 2]
    matrices = [p for p in network.parameters() if p.ndim >= 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.lr)


def meta_step_bytes(
    settings: MetaWeightNetSettings, data: ImbalancedData, strategy: Strategy = "cpu"
) -> int:
    """Bytes kept for backward passes over one inner loop and its meta step, on a fresh network."""
    torch.manual_seed(0)
    engine = program(settings, make_network(settings), data, 0, strategy)
    engine.train()
    with SavedTensors().watched() as saved:
        for _ in range(settings.unroll_steps * settings.gradient_accumulation):
            engine.train_step()
        return saved.peak_bytes


PROGRAM = Program(MetaWeightNetSettings, run_meta_weight_net)
