"""Digits of which few are labelled; the auxiliary task has more labels, a share of them random."""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from common.data.images import digits
from common.experiments.settings import Settings
from common.runs.record import DataIdentity
from common.runs.run import Run
from common.tasks.networks import mlp
from papers.sama.tasks.auxiliary import Scores, Sizes, make_batches, scored


class DigitsSettings(Settings):
    """Sizes of the sets and of the network."""

    labelled: int = Field(60, gt=0, description="digits of the main task")
    auxiliary: int = Field(600, gt=0)
    random_share: float = Field(
        0.0, ge=0, le=1, description="share of auxiliary labels that are drawn at random"
    )
    test: int = Field(600, gt=0)
    hidden: int = Field(128, gt=0)


class TwoHeads(nn.Module):
    """A trunk of one hidden layer, and a linear head for each task."""

    def __init__(self, features: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(mlp(features, hidden), nn.Tanh())
        self.main, self.auxiliary = nn.Linear(hidden, classes), nn.Linear(hidden, classes)


class AuxiliaryDigits:
    """Both tasks ask for the digit; each has images of its own.

    Args:
        sizes: of batches.
    """

    def __init__(
        self, settings: DigitsSettings, run: Run, sizes: Sizes, device: torch.device
    ) -> None:
        images = digits()
        run.uses(DataIdentity(name="scikit-learn digits", real=True, source="bundled"))
        rng = np.random.default_rng(run.seed)
        order = rng.permutation(len(images))
        cuts = np.cumsum([settings.labelled, settings.auxiliary, settings.test])
        x = torch.from_numpy(images.pixels.reshape(len(images), -1) / 16).float().to(device)
        y = torch.from_numpy(images.labels.copy())
        main, auxiliary, test = np.split(order[: cuts[-1]], cuts[:-1])
        given = y[auxiliary].clone()
        self.random = torch.zeros(len(given), dtype=torch.bool)
        self.random[: round(settings.random_share * len(given))] = True
        drawn = torch.from_numpy(rng.integers(0, 10, int(self.random.sum())))
        given[self.random] = drawn
        self._main, self._test = ((x[part], y[part].to(device)) for part in (main, test))
        self._auxiliary = x[auxiliary], given.to(device)
        self.network = TwoHeads(x.shape[1], settings.hidden, 10).to(device)
        self._rows = make_batches(len(main), len(auxiliary), sizes, run.seed)

    @property
    def steps_per_epoch(self) -> int:
        """See :class:`AuxiliaryTask`; so for the others."""
        return self._rows.main.steps_per_epoch

    def _cost(self, rows: Tensor) -> Tensor:
        x, y = (part[rows] for part in self._main)
        return functional.cross_entropy(self.network.main(self.network.trunk(x)), y)

    def main_cost(self, step: int) -> Tensor:
        return self._cost(self._rows.main.at(step))

    def meta_cost(self, step: int) -> Tensor:
        return self._cost(self._rows.meta.at(step))

    def auxiliary_batch(self, step: int) -> Tensor:
        return self._rows.auxiliary.at(step)

    def auxiliary_losses(self, batch: Tensor) -> Tensor:
        x, y = (part[batch] for part in self._auxiliary)
        logits = self.network.auxiliary(self.network.trunk(x))
        return functional.cross_entropy(logits, y, reduction="none")

    def scores(self) -> tuple[Scores | None, Scores]:
        x, y = self._test
        return None, scored(self.network.main(self.network.trunk(x)), y)

    def weight_metrics(self, weights: nn.Module) -> dict[str, float]:
        """Of right labels and of random ones, too, where there are both."""
        found = weights(self.auxiliary_losses(torch.arange(len(self.random))))
        metrics = {"mean_weight": float(found.mean())}
        if 0 < int(self.random.sum()) < len(self.random):
            metrics["weight_right"] = float(found[~self.random].mean())
            metrics["weight_random"] = float(found[self.random].mean())
        return metrics
