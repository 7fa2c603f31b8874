"""Sets of images in [-1, 1], real and held out, and strips of digits that spell numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from common.data.images import DIGIT_NAMES, Images, digits, fashion_mnist, mnist
from common.data.registry import identity
from common.errors import InputError
from common.runs.record import DataIdentity
from common.runs.run import Run

SetName = Literal["digits", "mnist", "fashion_mnist", "cifar10", "svhn", "celeba"]
ImageName = Literal[SetName, "poisson_digits"]
#: Side of a set's images; that of CelebA is what its photographs are cut and brought to.
SIDES: Final[dict[SetName, int]] = {
    "digits": 8,
    "mnist": 28,
    "fashion_mnist": 28,
    "cifar10": 32,
    "svhn": 32,
    "celeba": 64,
}
#: Faces have no classes: these, each there or not, tell eight apart.
ATTRIBUTES: Final = ("Male", "Smiling", "Young")
#: Digits in a strip, and the mean of the numbers that strips spell.
PLACES, MEAN = 3, 100.0
#: Strips for training, and held out.
STRIPS: Final = {True: 20000, False: 4000}
#: Chances below count as this: a number that is all but impossible would drown all others.
SMALLEST_CHANCE: Final = 1e-8
#: Share of scikit-learn's digits that is held out.
HELD_OUT: Final = 0.3


class ImageSet(NamedTuple):
    """Images (n, channels, height, width) and labels (n,); of strips, numbers.

    Grey images are float in [-1, 1]; colours stay uint8, a quarter of the memory, until
    :func:`in_floats` makes a batch of them.
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one image."""
        channels, height, width = self.train.shape[1:]
        return channels, height, width


def load_images(name: ImageName, root: Path | None, run: Run, size: int | None = None) -> ImageSet:
    """A set; ``size`` is the side that square images are brought to (default: their own).

    Digits are split by the run's seed and strips are drawn by it.

    Raises:
        InputError: files are missing or malformed, or strips are to have another size.
    """
    if name == "poisson_digits":
        if size is not None:
            raise InputError(f"poisson_digits: size={size}; allowed: none, they are of one height")
        run.uses(identity("mnist", root=root))
        rng = np.random.default_rng(run.seed)
        parts = [strips(mnist(train, root), STRIPS[train], rng) for train in (True, False)]
    elif name == "digits":
        run.uses(DataIdentity(name="scikit-learn digits", real=True, source="bundled"))
        parts = _split(digits(), run.seed)
    elif name == "cifar10":
        from common.tasks.cifar10_images import train_and_test

        parts = [(split.x, split.y) for split in train_and_test(root, run)]
    elif name == "svhn":
        from common.data.svhn import svhn

        run.uses(identity(name, root=root))
        parts = [
            _colours(images.pixels, images.labels)
            for images in (svhn(True, root), svhn(False, root))
        ]
    elif name == "celeba":
        run.uses(identity(name, root=root))
        parts = [_faces(held_out, root) for held_out in (False, True)]
    else:
        run.uses(identity(name, root=root))
        load = mnist if name == "mnist" else fashion_mnist
        parts = [_tensors(load(train, root), 255) for train in (True, False)]
    (train, train_labels), (test, test_labels) = parts
    if size is not None and size != train.shape[-1]:
        train, test = (resized(in_floats(images), size) for images in (train, test))
    return ImageSet(train, train_labels, test, test_labels)


def in_floats(images: Tensor) -> Tensor:
    """Grey levels or colours of 0 to 255 as [-1, 1]; what is float already as it is."""
    return images / 127.5 - 1 if images.dtype == torch.uint8 else images


def resized(images: Tensor, size: int) -> Tensor:
    """Bilinear, as the authors do; from 28 to 32 a border of black instead, which loses nothing."""
    if images.shape[-1] == 28 and size == 32:
        return functional.pad(images, (2, 2, 2, 2), value=-1.0)
    shape = (size, size)
    return functional.interpolate(images, shape, mode="bilinear", antialias=size < images.shape[-1])


def strips(images: Images, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """``count`` numbers of a Poisson distribution, spelled by random images of their digits.

    Returns:
        ((count, 1, h, 3 w) in [-1, 1], (count,) numbers).
    """
    largest = len(DIGIT_NAMES) ** PLACES - 1
    numbers = np.minimum(rng.poisson(MEAN, count), largest)
    rows = {digit: np.flatnonzero(images.labels == digit) for digit in range(len(DIGIT_NAMES))}
    joined = []
    for place in reversed(range(PLACES)):
        wanted = numbers // len(DIGIT_NAMES) ** place % len(DIGIT_NAMES)
        chosen = np.empty(count, dtype=np.int64)
        for digit, among in rows.items():
            here = wanted == digit
            chosen[here] = rng.choice(among, int(here.sum()))
        joined.append(images.pixels[chosen])
    pixels = torch.from_numpy(np.concatenate(joined, axis=2))
    return pixels[:, None].float() / 127.5 - 1, torch.from_numpy(numbers.astype(np.int64))


def spelled(digits_read: Tensor) -> Tensor:
    """(n, places) digits -> (n,) numbers."""
    scale = torch.tensor([len(DIGIT_NAMES) ** place for place in reversed(range(PLACES))])
    return (digits_read * scale).sum(1)


def poisson_shares() -> npt.NDArray[np.float64]:
    """Chance of each number that a strip can spell, none below :data:`SMALLEST_CHANCE`."""
    from scipy.stats import poisson

    numbers = np.arange(len(DIGIT_NAMES) ** PLACES)
    shares: npt.NDArray[np.float64] = poisson.pmf(numbers, MEAN)
    return np.maximum(shares, SMALLEST_CHANCE)


def _tensors(images: Images, white: int) -> tuple[Tensor, Tensor]:
    pixels = torch.from_numpy(np.array(images.pixels))[:, None].float()
    return pixels * (2 / white) - 1, torch.from_numpy(images.labels.copy())


def _colours(pixels: npt.NDArray[np.uint8], labels: npt.ArrayLike) -> tuple[Tensor, Tensor]:
    return torch.tensor(pixels).permute(0, 3, 1, 2), torch.tensor(labels)


def _faces(held_out: bool, root: Path | None) -> tuple[Tensor, Tensor]:
    """Those for test, or all others, and which of the eight classes they are of."""
    from common.data.celeba import celeba

    faces = celeba(("test",) if held_out else ("train", "valid"), root)
    bits = [faces.having(name).astype(np.int64) << place for place, name in enumerate(ATTRIBUTES)]
    return _colours(faces.pixels(SIDES["celeba"]), np.sum(bits, axis=0))


def _split(images: Images, seed: int) -> list[tuple[Tensor, Tensor]]:
    order = np.random.default_rng(seed).permutation(len(images))
    held = round(HELD_OUT * len(images))
    return [_tensors(images.take(rows), 16) for rows in (order[held:], order[:held])]
