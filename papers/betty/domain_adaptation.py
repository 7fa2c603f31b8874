"""Domain adaptation by ignoring: Table 4, three levels.

A network is pretrained on a source domain with a weight for each sample, another is finetuned on a
few target samples and held near the first; the weights ask for a low finetuning loss. That loss
depends on the pretrained network through the finetuned one and through the distance between the
two, so the hypergradient has two paths. Source: Choe et al. 2023, Sec. 4.3.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from common.config import Program, Settings
from common.core import Core, CoreSettings
from common.data.office_caltech import CLASS_NAMES, office_caltech10_surf
from common.errors import InputError
from common.run import DataIdentity, Run
from papers.betty import Config, Engine, EngineConfig, ImplicitProblem
from papers.betty.batches import Batches, Split, per_class
from papers.betty.configs import Strategy
from papers.betty.networks import mlp
from papers.betty.training import SavedTensors, accuracy, run_engine, strategy_on

Method = Literal["target_only", "baseline", "rwt"]
Domain = Literal["amazon", "Caltech10", "dslr", "webcam"]


class DomainAdaptationSettings(Settings):
    """Domains, networks, optimisers, and how near the two networks are held."""

    core: CoreSettings = CoreSettings(global_batch_size=64)
    # Office-Home's images cannot be redistributed. Office-Caltech-10 poses the same task, objects
    # in four domains, as histograms of visual words; so networks are perceptrons, not ResNets.
    data: Literal["digits", "office_caltech10_surf"]
    data_root: str | None = None
    source: Domain = "Caltech10"
    target: Domain = "amazon"
    source_size: int = Field(800, gt=0, description="digits only")
    corrupted: float = Field(
        0.9, ge=0, le=1, description="digits only: share of source images inverted, label drawn"
    )
    target_per_class: int = Field(gt=0, description="samples to finetune and to reweight on")
    method: Method
    iterations: int = Field(gt=0)
    validate_every: int = Field(gt=0)
    batch_size: int = Field(64, gt=0)
    hidden: int = Field(64, gt=0)
    lr: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    lr_decay_every: int | None = Field(None, gt=0, description="steps after which lr falls to 1/10")
    proximal: float = Field(ge=0, description="strength of the squared distance; lambda")
    alpha: float = Field(0.01, gt=0, description="perturbation of finite differences")

    @model_validator(mode="after")
    def _check(self) -> DomainAdaptationSettings:
        if self.source == self.target:
            raise ValueError(f"source and target are both {self.source!r}; they must differ")
        return self


class Data(NamedTuple):
    """Source set, target set to train on, target test set.

    ``corrupted`` (n,) tells which source samples are; None where nobody knows.
    """

    source: Split
    target: Split
    test: Split
    corrupted: Tensor | None
    classes: int


def run_domain_adaptation(settings: DomainAdaptationSettings, run: Run) -> dict[str, float]:
    """Train; returns target accuracy (%), mean weights, time (s) and memory (bytes)."""
    core = Core(settings.core, run)
    data = load(settings, run)
    engine = program(settings, data, run.seed, strategy_on(core.device))
    finetune = engine.problem("finetune")
    test = Split(*(part.to(core.device) for part in data.test))

    def evaluate() -> dict[str, float]:
        return {"accuracy_pct": accuracy(finetune(test.x), test.y)}

    history = run_engine(engine, core, evaluate, settings.validate_every)
    run.write_rows("history.csv", history.rows)
    core.finish()
    reached = [row["accuracy_pct"] for row in history.rows]
    metrics = {
        "accuracy_pct": reached[-1],
        "best_accuracy_pct": max(reached),
        "train_s": history.seconds,
        "saved_bytes": float(step_bytes(settings, data)),
    }
    if settings.method == "rwt" and data.corrupted is not None:
        with torch.no_grad():
            weights = engine.problem("reweight")(data.source.x.to(core.device)).cpu()
        metrics["weight_good"] = float(weights[~data.corrupted].mean())
        metrics["weight_bad"] = float(weights[data.corrupted].mean())
    return metrics


def load(settings: DomainAdaptationSettings, run: Run) -> Data:
    """Draw the sets with the run's seed and note what was read."""
    rng = np.random.default_rng(run.seed)
    return _digits(settings, run, rng) if settings.data == "digits" else _office(settings, run, rng)


def _digits(settings: DomainAdaptationSettings, run: Run, rng: np.random.Generator) -> Data:
    from common.data.images import digits

    images = digits()
    run.uses(DataIdentity(name="scikit-learn digits", real=True, source="bundled"))
    x, y = images.pixels.reshape(len(images), -1) / 16, np.array(images.labels)
    target, rest = per_class(y, settings.target_per_class, rng)
    if settings.source_size >= len(rest):
        raise InputError(
            f"source_size {settings.source_size}: allowed below {len(rest)}, so that some are left"
            " to test on"
        )
    source, test = np.split(rng.permutation(rest), [settings.source_size])
    corrupted = np.zeros(len(source), dtype=bool)
    corrupted[: round(settings.corrupted * len(source))] = True
    source_x = np.where(corrupted[:, None], 1 - x[source], x[source])
    source_y = np.where(corrupted, rng.integers(0, 10, len(source)), y[source])
    return Data(
        _split(source_x, source_y),
        _split(x[target], y[target]),
        _split(x[test], y[test]),
        torch.from_numpy(corrupted),
        10,
    )


def _office(settings: DomainAdaptationSettings, run: Run, rng: np.random.Generator) -> Data:
    from common.data.registry import identity

    root = Path(settings.data_root) if settings.data_root else None
    files = [f"{domain}_SURF_L10.mat" for domain in (settings.source, settings.target)]
    run.uses(identity("office_caltech10_surf", files, root))
    source = office_caltech10_surf(settings.source, root)
    target = office_caltech10_surf(settings.target, root)
    x, y = target.features(), target.labels
    chosen, test = per_class(y, settings.target_per_class, rng)
    return Data(
        _split(source.features(), source.labels),
        _split(x[chosen], y[chosen]),
        _split(x[test], y[test]),
        None,
        len(CLASS_NAMES),
    )


def _split(x: npt.NDArray[np.float64], y: npt.NDArray[np.int64]) -> Split:
    return Split(torch.from_numpy(x).float(), torch.from_numpy(np.array(y)))


def body(network: nn.Module) -> list[nn.Parameter]:
    """Parameters of all layers but the last, whose classes need not be those of another domain."""
    return list(network.parameters())[:-2]


def squared_distance(a: nn.Module, b: nn.Module) -> Tensor:
    """Between two networks, without their last layers."""
    parts = [(v - w).square().sum() for v, w in zip(body(a), body(b), strict=True)]
    return torch.stack(parts).sum()


class SampleWeight(nn.Module):
    """Weight between 0 and 1 of a sample, from its input."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.network = mlp(features, hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, features) -> (n,)."""
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


class Reweight(ImplicitProblem):
    """Top problem: the finetuning cost on target samples, by the weights of source samples."""

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """What :class:`Finetune` minimises."""
        return self.finetune.training_step(batch)  # type: ignore[attr-defined, no-any-return]


def program(
    settings: DomainAdaptationSettings, data: Data, seed: int, strategy: Strategy = "cpu"
) -> Engine:
    """Three levels; two for ``baseline``, and finetuning from scratch for ``target_only``."""
    features = data.source.x.shape[1]
    network = mlp(features, settings.hidden, data.classes)

    def parts(module: nn.Module, split: Split, place: int) -> dict[str, Any]:
        optimizer = torch.optim.Adam(
            module.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
        )
        every = settings.lr_decay_every
        return {
            "config": Config(type="darts", darts_alpha=settings.alpha),
            "module": module,
            "optimizer": optimizer,
            "scheduler": every and torch.optim.lr_scheduler.StepLR(optimizer, every, 0.1),
            "train_data_loader": Batches(*split, size=settings.batch_size, seed=seed + place),
        }

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
    weight = SampleWeight(features, settings.hidden)
    reweight = Reweight("reweight", **parts(weight, data.target, 2))
    dependencies: Any = {
        "u2l": {reweight: [pretrain]},
        "l2u": {pretrain: [finetune, reweight], finetune: [reweight]},
    }
    return Engine([reweight, finetune, pretrain], config, dependencies)


def step_bytes(settings: DomainAdaptationSettings, data: Data) -> int:
    """Most bytes kept at once for backward passes, over one iteration of a fresh program."""
    torch.manual_seed(0)
    engine = program(settings, data, 0)
    engine.train()
    with SavedTensors().watched() as saved:
        engine.train_step()
    return saved.peak_bytes


PROGRAM = Program(DomainAdaptationSettings, run_domain_adaptation)
