"""Images, centred and divided by one number, in three parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from common.data.cifar10 import cifar10
from common.data.cifar100 import cifar100
from common.data.images import Images, digits, fashion_mnist, mnist
from common.data.registry import identity
from common.errors import InputError
from common.experiments.settings import Settings
from common.runs.record import DataIdentity
from common.runs.run import Run

Name = Literal["digits", "mnist", "fashion_mnist", "cifar10", "cifar100"]
LOADERS: Final[dict[Name, Callable[[bool, Path | None], Images]]] = {
    "mnist": mnist,
    "fashion_mnist": fashion_mnist,
    "cifar10": cifar10,
    "cifar100": cifar100,
}


class ImageSettings(Settings):
    """Which images, and how many of them."""

    name: Name = "digits"
    root: str | None = Field(None, description="folder of the set, instead of the registered one")
    train: int = Field(1047, gt=0)
    validation: int = Field(300, ge=0, description="chooses among trials; 0 where nothing is")
    test: int = Field(450, gt=0)


class Part(NamedTuple):
    """(n, channels, height, width) inputs and (n,) classes."""

    x: Tensor
    y: Tensor


class Split(NamedTuple):
    """Three parts that share no image."""

    train: Part
    validation: Part
    test: Part


def load_images(settings: ImageSettings, run: Run) -> Split:
    """The three parts, drawn by the run's seed and noted in the run.

    A pixel's mean over training images is taken off (of colours, that of the channel), and all are
    divided by one standard deviation.

    Raises:
        InputError: a set has fewer images than are asked for.
    """
    root = Path(settings.root) if settings.root else None
    counts = (settings.train, settings.validation, settings.test)
    rng = np.random.default_rng(run.seed)
    if settings.name == "digits":
        run.uses(DataIdentity(name="scikit-learn digits", real=True, source="bundled"))
        parts = _drawn(digits(), counts, rng)
    else:
        run.uses(identity(settings.name, root=root))
        load = LOADERS[settings.name]
        parts = _drawn(load(True, root), counts[:2], rng)
        parts += _drawn(load(False, root), counts[2:], rng)
    pixels = [_channels_first(part) for part in parts]
    over = (0, 2, 3) if pixels[0].shape[1] > 1 else (0,)
    mean, scale = pixels[0].mean(over, keepdim=True), pixels[0].std()
    return Split(
        *(
            Part((x - mean) / scale, torch.from_numpy(part.labels.copy()).long())
            for x, part in zip(pixels, parts, strict=True)
        )
    )


def _channels_first(images: Images) -> Tensor:
    """(n, channels, height, width), grey images with one channel."""
    pixels = torch.from_numpy(images.pixels.copy()).float()
    grey = pixels.ndim == 3
    return pixels.unsqueeze(1) if grey else pixels.permute(0, 3, 1, 2).contiguous()


def _drawn(images: Images, counts: tuple[int, ...], rng: np.random.Generator) -> list[Images]:
    if sum(counts) > len(images):
        raise InputError(f"images: {sum(counts)} asked for; allowed: at most {len(images)}")
    order = rng.permutation(len(images))[: sum(counts)]
    return [images.take(part) for part in np.split(order, np.cumsum(counts)[:-1])]
