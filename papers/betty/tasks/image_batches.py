"""Pictures of a domain as batches for a network: cropped, flipped, normalised as for ImageNet."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from common.data.office_home import Domain
from common.tasks.batches import Split, divided
from common.training import CoreSettings
from common.training.data_order import EpochLoader, EpochOrder, loaded

MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalised(crops: Tensor) -> Tensor:
    """(n, 3, h, w) uint8 -> float, with the mean and spread that ImageNet's pictures have as 0, 1.

    Apart from the crops, so that these stay bytes while they are kept, or sent between processes.
    """
    scaled = v2.functional.to_dtype(crops, torch.float32, scale=True)
    return v2.functional.normalize(scaled, MEAN, SPREAD)  # type: ignore[no-any-return]


class Crops(Dataset[tuple[Tensor, int]]):
    """(crop (3, side, side) uint8, label) of some pictures of a domain.

    Indices go on after the last picture with the first one.

    Args:
        rows: which pictures.
        resize: what the shorter side is made before the crop.
        augment: random crops, also mirrored; otherwise central ones.
    """

    def __init__(
        self, domain: Domain, rows: npt.NDArray[np.int64], resize: int, side: int, augment: bool
    ) -> None:
        self.domain, self.rows = domain, rows
        cut = [v2.RandomResizedCrop(side), v2.RandomHorizontalFlip()]
        self._transform = v2.Compose(
            [v2.Resize(resize), *(cut if augment else [v2.CenterCrop(side)]), v2.PILToTensor()]
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        row = int(self.rows[index % len(self)])
        return self._transform(self.domain.picture(row)), int(self.domain.labels[row])

    def batches(
        self, size: int, steps: int, seed: int, settings: CoreSettings, device: torch.device
    ) -> CropBatches:
        """Batches of random crops to train on.

        Args:
            size: pictures of a batch, over all processes; at most as many as there are are taken.
            steps: batches of the run.
            seed: of order and, with worker processes, of augmentation.
            settings: how many worker processes.
            device: where the batches go.
        """
        order = _SuccessiveEpochs(len(self), min(size, len(self)), steps, seed)
        return CropBatches(EpochLoader(self, order, settings, device))

    def decoded(self, workers: int) -> Split:
        """All of them at once, for crops that are not random."""
        loader = DataLoader(
            self, batch_size=64, num_workers=workers, generator=torch.Generator().manual_seed(0)
        )
        crops, labels = zip(*loaded(loader), strict=True)
        return Split(torch.cat(crops), torch.cat(labels))


class CropBatches:
    """Normalised batches of a whole run, epoch after epoch, from one set of worker processes.

    Part of a problem's state: a resumed program goes on with the batch after the last one.
    """

    def __init__(self, loader: EpochLoader) -> None:
        self._loader, self._taken = loader, 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for crops, labels in self._loader.batches(0, self._taken):
            self._taken += 1
            yield normalised(crops), labels

    def divided(self, rank: int, count: int) -> CropBatches:
        """The same batches, of each the share of process ``rank`` of ``count``."""
        loader = copy.copy(self._loader)
        loader.order = divided(loader.order, rank, count)
        return CropBatches(loader)

    def state_dict(self) -> dict[str, Any]:
        """Position."""
        return {"taken": self._taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`; takes effect at the next iteration."""
        self._taken = state["taken"]


class _SuccessiveEpochs(EpochOrder):
    """All epochs of a run as a single one: workers are not started anew for each.

    The index of a sample is that of its epoch's first one plus its own, so that no index comes
    twice and each epoch augments a sample anew.
    """

    def __init__(self, size: int, batch_size: int, steps: int, seed: int) -> None:
        super().__init__(size, batch_size, seed=seed)
        self._steps = steps

    def batches(self, epoch: int, start: int = 0) -> Iterator[list[int]]:
        for step in range(start, self._steps):
            number, place = divmod(step, self.steps_per_epoch)
            rows = next(super().batches(number, place))
            yield [number * self.size + row for row in rows]
