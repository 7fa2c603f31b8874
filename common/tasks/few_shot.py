"""Few-shot tasks: a few examples of classes never trained on, of Omniglot or turned digits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from common.errors import InputError
from common.experiments.settings import Settings
from common.runs.record import DataIdentity
from common.runs.run import Run
from common.tasks.batches import Split
from common.training.data_order import mixed


class FewShotData(Settings):
    """Images, and what a task is made of."""

    data: Literal["digits", "omniglot"]
    data_root: str | None = None
    held_out: tuple[str, ...] = Field(description="digits or alphabets of the test tasks")
    ways: int = Field(5, gt=1, description="classes of a task")
    shots: int = Field(1, gt=0, description="examples of each class to adapt on")
    queries: int = Field(15, gt=0, description="examples of each class to evaluate on")


class Task(NamedTuple):
    """Examples to adapt on, and others of the same classes to evaluate on."""

    support: Split
    query: Split


class TaskSampler:
    """Draws tasks: classes, a labelling of them and examples.

    Task ``k`` depends on seed and ``k`` alone, so that every method meets the same ones.

    Args:
        examples (classes, examples of each, 1, h, w): images.

    Raises:
        InputError: fewer classes or examples than a task needs.
    """

    def __init__(self, examples: Tensor, ways: int, shots: int, queries: int, seed: int) -> None:
        classes, each = examples.shape[:2]
        if classes < ways or each < shots + queries:
            raise InputError(
                f"tasks of {ways} classes with {shots} + {queries} examples: the data has {classes}"
                f" classes of {each}"
            )
        self.examples, self.ways, self.shots, self.queries = examples, ways, shots, queries
        self.seed = seed

    def draw(self, number: int) -> Task:
        """Task ``number``."""
        generator = torch.Generator().manual_seed(mixed(self.seed, number))
        classes, each = self.examples.shape[:2]
        chosen = torch.randperm(classes, generator=generator)[: self.ways]
        per_class = self.shots + self.queries
        places = [torch.randperm(each, generator=generator)[:per_class] for _ in chosen]
        rows = self.examples[chosen[:, None], torch.stack(places)]
        labels = torch.arange(self.ways, device=rows.device)[:, None].expand(-1, per_class)
        cut = self.shots
        parts = [
            Split(rows[:, part].flatten(0, 1), labels[:, part].flatten())
            for part in (slice(cut), slice(cut, None))
        ]
        return Task(*parts)


def load_classes(settings: FewShotData, run: Run) -> tuple[Tensor, Tensor]:
    """(training classes, test classes), (classes, examples, 1, h, w) each; a rotation is a class.

    Raises:
        InputError: a group to hold out is not in the data.
    """
    if settings.data == "digits":
        from common.data.images import digits

        images = digits()
        run.uses(DataIdentity(name="scikit-learn digits", real=True, source="bundled"))
        fewest = int(np.bincount(images.labels).min())
        by_class = [images.pixels[images.labels == k][:fewest] / 16 for k in range(10)]
        grey, groups = torch.from_numpy(np.stack(by_class)).float(), list(images.class_names)
    else:
        from common.data.omniglot import omniglot_small
        from common.data.registry import identity

        root = Path(settings.data_root) if settings.data_root else None
        run.uses(identity("omniglot_small", root=root))
        drawings = omniglot_small(root)
        ink = torch.from_numpy(drawings.ink[np.argsort(drawings.labels, kind="stable")].copy())
        small = functional.interpolate(ink.float()[:, None], size=28, mode="area")
        groups = list(drawings.alphabets)
        grey = small.reshape(len(groups), -1, 28, 28)
    unknown = sorted(set(settings.held_out) - set(groups))
    if unknown:
        known = ", ".join(dict.fromkeys(groups))
        raise InputError(f"held_out {unknown[0]!r}: is not in {settings.data}; it has {known}")
    outside = torch.tensor([group in settings.held_out for group in groups])
    turned = torch.stack([grey.rot90(quarter, dims=(2, 3)) for quarter in range(4)], dim=1)
    return turned[~outside].flatten(0, 1).unsqueeze(2), turned[outside].flatten(0, 1).unsqueeze(2)


def few_shot_net(blocks: int, channels: int, pooled: int, classes: int) -> nn.Sequential:
    """Blocks of a 3x3 convolution of stride 2, batch normalisation and ReLU; means; linear layer.

    Normalised by the batch's own statistics, also in evaluation. Source: Finn et al. 2017, Sec. 5.2
    (its network for Omniglot).
    """
    layers: list[nn.Module] = []
    for index in range(blocks):
        layers += [
            nn.Conv2d(channels if index else 1, channels, 3, stride=2, padding=1),
            nn.BatchNorm2d(channels, track_running_stats=False),
            nn.ReLU(),
        ]
    head = nn.Linear(channels * pooled**2, classes)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(pooled), nn.Flatten(), head)


def proximal_loss(
    logits: Tensor, labels: Tensor, weights: Sequence[Tensor], centre: Sequence[Tensor], prox: float
) -> Tensor:
    """Cross-entropy plus ``prox |w - centre|^2 / 2``. Rajeswaran et al. 2019, eq. 3."""
    loss = functional.cross_entropy(logits, labels)
    if not prox:
        return loss
    apart = [(w - c).square().sum() for w, c in zip(weights, centre, strict=True)]
    return loss + 0.5 * prox * torch.stack(apart).sum()
