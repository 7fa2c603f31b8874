"""Images as vectors, centred and divided by one number, in three parts."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from common.data.images import Images, digits, fashion_mnist, mnist
from common.data.registry import identity
from common.errors import InputError
from common.experiments.settings import Settings
from common.runs.record import DataIdentity
from common.runs.run import Run


class ImageSettings(Settings):
    """Which images, and how many of them."""

    name: Literal["digits", "mnist", "fashion_mnist"] = "digits"
    root: str | None = Field(None, description="folder of the set, instead of the registered one")
    train: int = Field(1047, gt=0)
    validation: int = Field(300, gt=0, description="chooses among trials")
    test: int = Field(450, gt=0)


class Part(NamedTuple):
    """(n, features) inputs and (n,) classes."""

    x: Tensor
    y: Tensor


class Split(NamedTuple):
    """Three parts that share no image."""

    train: Part
    validation: Part
    test: Part


def load_images(settings: ImageSettings, run: Run) -> Split:
    """The three parts, drawn by the run's seed and noted in the run.

    Raises:
        InputError: a set has fewer images than are asked for.
    """
    root = Path(settings.root) if settings.root else None
    counts = (settings.train, settings.validation, settings.test)
    rng = np.random.default_rng(run.seed)
    if settings.name == "digits":
        run.uses(DataIdentity(name="scikit-learn digits", real=True, source="bundled"))
        first, second, third = _drawn(digits(), counts, rng)
    else:
        run.uses(identity(settings.name, root=root))
        load = mnist if settings.name == "mnist" else fashion_mnist
        first, second = _drawn(load(True, root), counts[:2], rng)
        (third,) = _drawn(load(False, root), counts[2:], rng)
    pixels = torch.from_numpy(first.pixels.copy()).flatten(1).float()
    mean, scale = pixels.mean(0), pixels.std()
    parts = (
        Part(
            (torch.from_numpy(part.pixels.copy()).flatten(1).float() - mean) / scale,
            torch.from_numpy(part.labels.copy()).long(),
        )
        for part in (first, second, third)
    )
    return Split(*parts)


def _drawn(images: Images, counts: tuple[int, ...], rng: np.random.Generator) -> list[Images]:
    if sum(counts) > len(images):
        raise InputError(f"images: {sum(counts)} asked for; allowed: at most {len(images)}")
    order = rng.permutation(len(images))[: sum(counts)]
    return [images.take(part) for part in np.split(order, np.cumsum(counts)[:-1])]
