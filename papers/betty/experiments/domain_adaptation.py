"""Domain adaptation by ignoring: Table 4, three levels.

A network is pretrained on a source domain with a weight for each sample, another is finetuned on a
few target samples and held near the first; the weights ask for a low finetuning loss. That loss
depends on the pretrained network through the finetuned one and through the distance between the
two, so the hypergradient has two paths. Source: Choe et al. 2023, Sec. 4.3.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from common.runs.programs import Program
from common.runs.run import Run
from common.tasks.batches import Batches, Split
from common.tasks.scores import accuracy
from common.training import Core
from common.training.meters import peak_gpu_bytes
from common.training.saved_tensors import SavedTensors
from papers.betty import Config, Engine, EngineConfig, ImplicitProblem
from papers.betty.configs import Strategy
from papers.betty.distribution.processes import joined
from papers.betty.tasks.domains import DomainData, DomainSettings, load_domains
from papers.betty.tasks.training import choose_strategy, run_engine

if TYPE_CHECKING:
    from papers.betty.tasks.image_batches import CropBatches, Crops

AdaptationMethod = Literal["target_only", "baseline", "rwt"]


class DomainAdaptationSettings(DomainSettings):
    """Domains, optimisers, and how near the two networks are held."""

    method: AdaptationMethod
    iterations: int = Field(gt=0)
    validate_every: int = Field(gt=0)
    batch_size: int = Field(64, gt=0)
    lr: float = Field(2e-3, gt=0)
    head_lr: float | None = Field(None, gt=0, description="of last layers; lr where absent")
    weight_decay: float = Field(0.0, ge=0)
    lr_decay_every: int | None = Field(None, gt=0, description="steps after which lr falls to 1/10")
    proximal: float = Field(ge=0, description="strength of the squared distance; lambda")
    alpha: float = Field(0.01, gt=0, description="perturbation of finite differences")


def run_domain_adaptation(settings: DomainAdaptationSettings, run: Run) -> dict[str, float]:
    """Train; returns final and best target accuracy (%), mean weights, time (s), memory (bytes).

    Memory is the most that tensors held on the GPU or, without one, that was kept for backward
    passes.
    """
    core = Core(settings.core, run)
    data = load_domains(settings, run)
    metrics = train(settings, data, core)
    memory = peak_gpu_bytes(core.device) or step_bytes(settings, data, choose_strategy(core))
    metrics["memory_bytes"] = float(memory)
    core.finish()
    return metrics


def train(settings: DomainAdaptationSettings, data: DomainData, core: Core) -> dict[str, float]:
    """Metrics of a program that was run to its end, but for memory."""
    engine = program(settings, data, core.run.seed, choose_strategy(core))
    finetune = engine.problem("finetune")

    def evaluate() -> dict[str, float]:
        batches = torch.split(data.test.x, settings.batch_size)
        logits = [finetune(data.prepared(x.to(core.device))) for x in batches]
        return {"accuracy_pct": accuracy(torch.cat(logits).cpu(), data.test.y)}

    history = run_engine(engine, core, evaluate, settings.validate_every)
    core.run.write_rows("history.csv", history.rows)
    reached = [row["accuracy_pct"] for row in history.rows]
    metrics = {
        "accuracy_pct": reached[-1],
        "best_accuracy_pct": max(reached),
        "train_s": history.seconds,
    }
    if settings.method == "rwt" and data.corrupted is not None:
        assert isinstance(data.source, Split)
        with torch.no_grad():
            weights = engine.problem("reweight")(data.source.x.to(core.device)).cpu()
        metrics["weight_good"] = float(weights[~data.corrupted].mean())
        metrics["weight_bad"] = float(weights[data.corrupted].mean())
    return metrics


def body(network: nn.Module) -> list[nn.Parameter]:
    """Parameters of all layers but the last, whose classes need not be those of another domain."""
    return list(network.parameters())[:-2]


def head(network: nn.Module) -> list[nn.Parameter]:
    """Weight and bias of the last layer."""
    return list(network.parameters())[-2:]


def squared_distance(a: nn.Module, b: nn.Module) -> Tensor:
    """Between two networks, without their last layers."""
    parts = [(v - w).square().sum() for v, w in zip(body(a), body(b), strict=True)]
    return torch.stack(parts).sum()


class SampleWeight(nn.Module):
    """Weight between 0 and 1 of a sample: the sigmoid of a network's only output."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) -> (n,)."""
        return torch.sigmoid(self.network(x)).squeeze(-1)


class Pretrain(ImplicitProblem):
    """Lowest problem: source loss, weighted where the program has a problem ``reweight``."""

    weighted = False

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean of weight times loss."""
        x, y = batch
        losses = functional.cross_entropy(self.module(x), y, reduction="none")
        if self.weighted:
            losses = self.reweight(x) * losses  # type: ignore[attr-defined]
        return losses.mean()


class Finetune(ImplicitProblem):
    """Middle problem: target loss, and the distance from the pretrained network."""

    proximal = 0.0

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Mean loss + lambda times squared distance."""
        x, y = batch
        loss = functional.cross_entropy(self.module(x), y)
        if self.proximal:
            pretrained: nn.Module = self.pretrain.module  # type: ignore[attr-defined]
            loss = loss + self.proximal * squared_distance(self.module, pretrained)
        return loss


class ReweightSource(ImplicitProblem):
    """Top problem: the finetuning cost on target samples, by the weights of source samples."""

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """What :class:`Finetune` minimises."""
        return self.finetune.training_step(batch)  # type: ignore[attr-defined, no-any-return]


def program(
    settings: DomainAdaptationSettings, data: DomainData, seed: int, strategy: Strategy = "cpu"
) -> Engine:
    """Three levels; two for ``baseline``, and finetuning alone for ``target_only``."""
    device = joined(strategy).device

    def batches(samples: Split | Crops, seed: int) -> Batches | CropBatches:
        size = settings.batch_size
        if isinstance(samples, Split):
            return Batches(*samples, size=size, seed=seed, transform=data.prepared)
        return samples.batches(size, settings.iterations, seed, settings.core, device)

    def parts(module: nn.Module, samples: Split | Crops, place: int) -> dict[str, Any]:
        groups: list[dict[str, Any]] = [
            {"params": body(module)},
            {"params": head(module), "lr": settings.head_lr or settings.lr},
        ]
        optimizer = torch.optim.Adam(groups, lr=settings.lr, weight_decay=settings.weight_decay)
        every = settings.lr_decay_every
        return {
            "config": Config(type="darts", darts_alpha=settings.alpha),
            "module": module,
            "optimizer": optimizer,
            "scheduler": every and torch.optim.lr_scheduler.StepLR(optimizer, every, 0.1),
            "train_data_loader": batches(samples, seed + place),
        }

    network = data.network(data.classes)
    config = EngineConfig(train_iters=settings.iterations, strategy=strategy)
    # Both start from the same weights, as the paper's both start from those of ImageNet.
    finetune = Finetune("finetune", **parts(copy.deepcopy(network), data.target, 1))
    if settings.method == "target_only":
        return Engine([finetune], config)
    finetune.proximal = settings.proximal
    pretrain = Pretrain("pretrain", **parts(network, data.source, 0))
    if settings.method == "baseline":
        return Engine([pretrain, finetune], config, {"l2u": {pretrain: [finetune]}})
    pretrain.weighted = True
    weight = SampleWeight(data.network(1))
    reweight = ReweightSource("reweight", **parts(weight, data.again, 2))
    dependencies: Any = {
        "u2l": {reweight: [pretrain]},
        "l2u": {pretrain: [finetune, reweight], finetune: [reweight]},
    }
    return Engine([reweight, finetune, pretrain], config, dependencies)


def step_bytes(
    settings: DomainAdaptationSettings, data: DomainData, strategy: Strategy = "cpu"
) -> int:
    """Most bytes kept at once for backward passes, over one iteration of a fresh program."""
    torch.manual_seed(0)
    engine = program(settings, data, 0, strategy)
    engine.train()
    with SavedTensors().watched() as saved:
        engine.train_step()
    return saved.peak_bytes


PROGRAM = Program(DomainAdaptationSettings, run_domain_adaptation)
