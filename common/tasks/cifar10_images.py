"""CIFAR-10 as tensors, and its colours as the networks take them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.data.cifar10 import cifar10
from common.data.registry import identity
from common.runs.run import Run
from common.tasks.batches import Split

MEAN = torch.tensor([125.3, 123.0, 113.9]).view(1, 3, 1, 1)
SPREAD = torch.tensor([63.0, 62.1, 66.7]).view(1, 3, 1, 1)


def train_and_test(root: Path | None, run: Run) -> tuple[Split, Split]:
    """Both sets of (n, 3, 32, 32) uint8 pixels and (n,) classes; notes in ``run`` what was read."""
    run.uses(identity("cifar10", root=root))
    sets = [
        Split(
            torch.from_numpy(np.array(images.pixels)).permute(0, 3, 1, 2),
            torch.from_numpy(images.labels.copy()),
        )
        for images in (cifar10(True, root), cifar10(False, root))
    ]
    return sets[0], sets[1]


def normalised_colours(pixels: Tensor) -> Tensor:
    """(n, 3, h, w) colours, 0 to 255 -> mean 0 and deviation 1 over CIFAR-10."""
    return (pixels - MEAN) / SPREAD
