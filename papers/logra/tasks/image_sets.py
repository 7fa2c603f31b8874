"""Images of the classification experiments: the first so many of each set, standardised.

Fashion-MNIST and CIFAR-10 by the published means and deviations of each channel, digits by those of
each pixel of the training images, for their margins are empty.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from common.data.images import Images, digits, fashion_mnist
from common.errors import InputError
from common.experiments.settings import Settings
from common.runs.record import DataIdentity
from common.runs.run import Run
from papers.logra.tasks.samples import Samples

Scale = tuple[tuple[float, ...], tuple[float, ...]]
#: Mean and standard deviation of levels between 0 and 1, by channel.
FASHION_SCALE: Scale = ((0.2860,), (0.3530,))
CIFAR_SCALE: Scale = ((0.4914, 0.4822, 0.4465), (0.247, 0.243, 0.261))


class ImageSettings(Settings):
    """Which images, and how many."""

    name: Literal["digits", "fashion_mnist", "cifar10"]
    root: str | None = None
    train: int = Field(gt=0, description="the first so many training images")
    test: int = Field(gt=0, description="the first so many test images, or of digits the next ones")


class ImageSet(NamedTuple):
    """Training and test images with their classes."""

    train: Samples
    test: Samples
    classes: int


def load_images(settings: ImageSettings, run: Run) -> ImageSet:
    """The images, noted in the run.

    Raises: InputError if a set has fewer than are asked for.
    """
    root = Path(settings.root) if settings.root else None
    if settings.name == "digits":
        run.uses(DataIdentity(name="scikit-learn digits", real=True, source="bundled"))
        # They are sorted by writer, so the order is drawn, the same one for every run.
        everything = digits()
        shuffled = everything.take(np.random.default_rng(0).permutation(len(everything)))
        found = _first(shuffled, settings.train), _first(shuffled, settings.test, settings.train)
        train, test = (_levels(part) for part in found)
        mean, deviation = train.mean(0), train.std(0)
        deviation[deviation == 0] = 1.0
    else:
        from common.data.registry import identity

        run.uses(identity(settings.name, root=root))
        loader, scale = fashion_mnist, FASHION_SCALE
        if settings.name == "cifar10":
            from common.data.cifar10 import cifar10

            loader, scale = cifar10, CIFAR_SCALE
        found = (
            _first(loader(True, root), settings.train),
            _first(loader(False, root), settings.test),
        )
        train, test = (_levels(part) / 255 for part in found)
        mean, deviation = (torch.tensor(each)[:, None, None] for each in scale)
    of_train, of_test = (
        Samples((levels - mean) / deviation, torch.from_numpy(part.labels.copy()))
        for levels, part in zip((train, test), found, strict=True)
    )
    return ImageSet(of_train, of_test, len(found[0].class_names))


def _first(images: Images, count: int, start: int = 0) -> Images:
    if start + count > len(images):
        raise InputError(f"{count} images asked for; allowed: at most {len(images) - start}")
    return images.take(np.arange(start, start + count))


def _levels(images: Images) -> Tensor:
    """(n, channels, h, w)."""
    pixels = torch.from_numpy(images.pixels.copy()).float()
    if pixels.dim() == 3:
        pixels = pixels.unsqueeze(3)
    return pixels.permute(0, 3, 1, 2).contiguous()
