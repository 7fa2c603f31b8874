"""Pictures, networks and training of the data pruning experiments."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from common.data.synthetic import noisy_labels
from common.errors import InputError
from common.experiments.settings import Settings
from common.runs.record import DataIdentity
from common.runs.run import Run
from common.tasks.augmentation import crop_and_flip
from common.tasks.batches import Batches, Split
from common.tasks.networks import conv_net, mlp
from common.training import CoreSettings
from papers.sama.methods.bilevel import BaseOptimizer

#: Pictures of one forward pass without gradients.
AT_ONCE = 1000


class PruningImages(Settings):
    """What is pruned, and how a network is trained on it: the same for proxies and retraining."""

    core: CoreSettings
    data: Literal["digits", "mnist", "fashion_mnist", "cifar10"]
    data_root: str | None = None
    train_images: int | None = Field(None, gt=0, description="drawn of the training set; None: all")
    noise_rate: float = Field(0.0, ge=0, lt=1, description="share of training labels that is wrong")
    network: Literal["mlp", "conv", "resnet18"]
    widths: tuple[int, ...] = Field(
        (), description="mlp: of hidden layers; conv: channels of its layers; resnet18: none"
    )
    augment: bool = Field(False, description="crop and flip training pictures")
    optimizer: BaseOptimizer
    batch_size: int = Field(gt=0)


class Pictures(NamedTuple):
    """Training pixels with the labels that are given, the true ones, and the test set."""

    train: Split
    truth: Tensor
    test: Split


def load_pictures(settings: PruningImages, run: Run) -> Pictures:
    """Draw training pictures and wrong labels with the run's seed; note what was read.

    Pixels are (n, 64) floats between 0 and 1 of digits, else (n, channels, h, w) bytes.

    Raises:
        InputError: more training pictures are asked for than there are.
    """
    rng = np.random.default_rng(run.seed)
    train, test = _digits(settings, run, rng) if settings.data == "digits" else _read(settings, run)
    wanted = len(train.y) if settings.train_images is None else settings.train_images
    if wanted > len(train.y):
        raise InputError(
            f"train_images {wanted}: {settings.data} has {len(train.y)}; allowed: at most that many"
        )
    if settings.batch_size > wanted:
        raise InputError(f"batch_size {settings.batch_size}: allowed: at most {wanted} pictures")
    rows = torch.from_numpy(np.sort(rng.permutation(len(train.y))[:wanted]))
    truth = train.y[rows]
    given = noisy_labels(truth.numpy(), settings.noise_rate, 10, rng)
    return Pictures(Split(train.x[rows], torch.from_numpy(given)), truth, test)


def _digits(settings: PruningImages, run: Run, rng: np.random.Generator) -> tuple[Split, Split]:
    """Both sets; the test set is what is not trained on."""
    from common.data.images import digits

    images = digits()
    run.uses(DataIdentity(name="scikit-learn digits", real=True, source="bundled"))
    x = torch.from_numpy(images.pixels.reshape(len(images), -1) / 16).float()
    y = torch.from_numpy(images.labels.copy())
    if settings.train_images is None or settings.train_images >= len(x):
        raise InputError(
            f"train_images {settings.train_images}: digits have no test set of their own; allowed:"
            f" below {len(x)}"
        )
    order = torch.from_numpy(rng.permutation(len(x)))
    train, test = order[: settings.train_images], order[settings.train_images :]
    return Split(x[train], y[train]), Split(x[test], y[test])


def _read(settings: PruningImages, run: Run) -> tuple[Split, Split]:
    """Both sets of a registered data set."""
    root = Path(settings.data_root) if settings.data_root else None
    if settings.data == "cifar10":
        from common.tasks.cifar10_images import train_and_test

        return train_and_test(root, run)
    from common.data.images import fashion_mnist, mnist
    from common.data.registry import identity

    run.uses(identity(settings.data, root=root))
    read = mnist if settings.data == "mnist" else fashion_mnist
    sets = [
        Split(
            torch.from_numpy(images.pixels.copy())[:, None], torch.from_numpy(images.labels.copy())
        )
        for images in (read(True, root), read(False, root))
    ]
    return sets[0], sets[1]


class PictureNetwork(nn.Module):
    """Logits in two parts, ``head(body(pictures))``, for methods that look at the last layer."""

    def __init__(self, settings: PruningImages) -> None:
        super().__init__()
        self.data = settings.data
        if settings.network == "resnet18":
            self.body, self.head = _resnet18()
        elif settings.network == "mlp":
            self._split(mlp(self._inputs, *settings.widths, 10))
        else:
            self._split(conv_net(self._inputs, *settings.widths))

    @property
    def _inputs(self) -> int:
        return {"digits": 64, "cifar10": 3}.get(self.data, 1)

    def _split(self, layers: nn.Sequential) -> None:
        self.body, self.head = layers[:-1], layers[-1]

    def features(self, pixels: Tensor) -> Tensor:
        """(n, ...) pixels -> (n, width) what the last layer reads."""
        features: Tensor = self.body(self._scaled(pixels))
        return features

    def forward(self, pixels: Tensor) -> Tensor:
        """(n, ...) pixels -> (n, 10) logits."""
        logits: Tensor = self.head(self.features(pixels))
        return logits

    def _scaled(self, pixels: Tensor) -> Tensor:
        if self.data == "digits":
            return pixels
        if self.data == "cifar10":
            from common.tasks.cifar10_images import MEAN, SPREAD

            return (pixels - MEAN.to(pixels.device)) / SPREAD.to(pixels.device)
        return pixels / 255


def _resnet18() -> tuple[nn.Module, nn.Module]:
    """Body and head of the ResNet-18 for small pictures: a 3x3 stem without pooling.

    Source: He et al. 2016, as pruning benchmarks on CIFAR-10 have it (Guo, Zhao, Bai 2022).
    """
    from torchvision.models import resnet18

    network = resnet18(num_classes=10)
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    head, network.fc = network.fc, nn.Identity()
    return network, head


def check_network(settings: PruningImages) -> None:
    """Raise InputError for a network that cannot read the pictures."""
    flat = settings.data == "digits"
    if flat != (settings.network == "mlp"):
        raise InputError(
            f"network {settings.network!r}: allowed for {settings.data}:"
            f" {'mlp' if flat else 'conv, resnet18'}"
        )
    if settings.network == "resnet18" and settings.data != "cifar10":
        raise InputError(f"network 'resnet18': allowed for {settings.data}: conv")
    if settings.augment and flat:
        raise InputError("augment: allowed for digits: false")


class PictureBatches:
    """Endless batches of (pixels, given labels, rows), each epoch in another order.

    Part of the resume state.

    Args:
        rows (m,): of the training set, which ones.
        seed: of the order.
        device: where they go.
    """

    def __init__(
        self,
        settings: PruningImages,
        split: Split,
        rows: Tensor,
        seed: int,
        device: torch.device,
    ) -> None:
        self._batches = Batches(
            split.x[rows],
            split.y[rows],
            rows,
            size=settings.batch_size,
            seed=seed,
            transform=crop_and_flip if settings.augment else None,
        )
        self._device, self._iterator = device, self._forever()

    def _forever(self) -> Iterator[tuple[Tensor, ...]]:
        while True:
            yield from self._batches

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch."""
        return len(self._batches)

    def next(self) -> tuple[Tensor, ...]:
        """The next batch."""
        return tuple(part.to(self._device) for part in next(self._iterator))

    def state_dict(self) -> dict[str, int]:
        """Position."""
        return self._batches.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Inverse of :meth:`state_dict`."""
        self._batches.load_state_dict(state)
        self._iterator = self._forever()


@torch.no_grad()
def accuracy_pct(network: PictureNetwork, split: Split, device: torch.device) -> float:
    """Accuracy (%) in evaluation mode; the network goes back to training mode."""
    network.eval()
    right = [
        (network(x.to(device)).argmax(1).cpu() == y).float()
        for x, y in zip(*(torch.split(part, AT_ONCE) for part in split), strict=True)
    ]
    network.train()
    return 100 * float(torch.cat(right).mean())
