"""Trains one network exactly as the paper's Table 2 says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from common.errors import InputError
from common.experiments.settings import Settings
from common.training.checkpoint import Checkpoint
from papers.logra.tasks.networks import Mlp, ResNet9
from papers.logra.tasks.samples import Samples, losses


class NetworkSettings(Settings):
    """Which network."""

    kind: Literal["mlp", "resnet9"] = "mlp"
    sizes: tuple[int, ...] = Field((), description="of an MLP, from input to classes")

    @model_validator(mode="after")
    def _check(self) -> NetworkSettings:
        if (len(self.sizes) < 2) == (self.kind == "mlp"):
            raise ValueError(f"sizes {list(self.sizes)}; allowed: at least 2 of an mlp, else none")
        return self

    def build(self, seed: int) -> nn.Module:
        """Freshly initialised with ``seed``."""
        torch.manual_seed(seed)
        return Mlp(self.sizes) if self.kind == "mlp" else ResNet9()


class TrainingSettings(Settings):
    """Optimiser and schedule. Batches are of the mean loss; an incomplete last one is left out."""

    optimiser: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(gt=0)
    momentum: float = Field(0.9, ge=0, description="of SGD")
    weight_decay: float = Field(ge=0)
    batch_size: int = Field(gt=0)
    epochs: int = Field(gt=0)
    schedule: Literal["none", "cyclic"] = Field(
        "none", description="cyclic: rises linearly for a fifth of the epochs, falls to 0"
    )
    augment: bool = Field(False, description="random crops of padded images, and flips")

    def build_optimiser(self, network: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of all of a network's parameters."""
        parameters, decay = network.parameters(), self.weight_decay
        if self.optimiser == "sgd":
            return torch.optim.SGD(parameters, self.lr, self.momentum, weight_decay=decay)
        return torch.optim.AdamW(parameters, self.lr, weight_decay=decay, foreach=True)

    def steps(self, samples: int) -> int:
        """Optimiser steps on so many samples. Raises InputError if they fill no batch."""
        if samples < self.batch_size:
            raise InputError(f"batch_size {self.batch_size}; allowed: at most {samples}, the set")
        return self.epochs * (samples // self.batch_size)


def batch_order(count: int, settings: TrainingSettings, seed: int) -> Iterator[Tensor]:
    """Places (batch,) of the samples of each step, by seed alone: a new permutation each epoch."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(settings.epochs):
        order = torch.randperm(count, generator=generator)
        for start in range(0, count - settings.batch_size + 1, settings.batch_size):
            yield order[start : start + settings.batch_size]


def rate_at(step: int, steps: int, settings: TrainingSettings) -> float:
    """Learning rate of a step."""
    if settings.schedule == "none":
        return settings.lr
    peak = steps * (settings.epochs // 5) / settings.epochs
    return float(settings.lr * np.interp(step, [0, peak, steps], [0, 1, 0]))


def train(
    network: nn.Module,
    samples: Samples,
    settings: TrainingSettings,
    seed: int,
    checkpoint: Checkpoint | None = None,
) -> nn.Module:
    """Train in place, where the samples are; the order of batches is drawn with ``seed``.

    Args:
        network, samples, settings, seed: what is trained, on what and how.
        checkpoint: where a killed training goes on from, to the same bits; removed at the end.

    Raises: InputError if the samples fill no batch.
    """
    device = samples.x.device
    network = network.to(device).train()
    steps = settings.steps(len(samples.x))
    optimiser = settings.build_optimiser(network)
    augment = Augmentation(seed) if settings.augment else None

    def state() -> dict[str, Any]:
        return {
            "step": step + 1,
            "network": network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "augmentation": None if augment is None else augment.generator.get_state(),
        }

    first = 0
    kept = None if checkpoint is None else checkpoint.read()
    if kept is not None:
        first = kept["step"]
        network.load_state_dict(kept["network"])
        optimiser.load_state_dict(kept["optimiser"])
        if augment is not None:
            augment.generator.set_state(kept["augmentation"])
    for step, places in enumerate(batch_order(len(samples.x), settings, seed)):
        if step < first:
            continue
        for group in optimiser.param_groups:
            group["lr"] = rate_at(step, steps, settings)
        batch = samples.take(places.to(device))
        optimiser.zero_grad()
        logits = network(batch.x if augment is None else augment(batch.x))
        loss = losses(logits, batch.y).sum() / batch.y.numel()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if checkpoint is not None:
            checkpoint.write(step + 1, state)
    if checkpoint is not None:
        checkpoint.remove()
    return network.eval()


class Augmentation:
    """A random place of each image padded by 4 on all sides, and a flip of every second one."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, images: Tensor) -> Tensor:
        """(n, channels, h, w), the same shape."""
        n, _, height, width = images.shape
        padded = functional.pad(images, (4, 4, 4, 4))
        top, left = torch.randint(9, (2, n, 1), generator=self.generator)
        rows, columns = top + torch.arange(height), left + torch.arange(width)
        flipped = torch.rand(n, 1, generator=self.generator) < 0.5
        columns = torch.where(flipped, columns.flip(1), columns)
        each = torch.arange(n)[:, None, None]
        places = (each, rows[:, :, None], columns[:, None])
        n_at, row_at, column_at = (part.to(images.device) for part in places)
        # Indices around a slice put it last: (n, h, w, channels).
        return padded[n_at, :, row_at, column_at].permute(0, 3, 1, 2).contiguous()
