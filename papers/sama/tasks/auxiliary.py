"""A main task with few labels, and an auxiliary one on the same network with losses to weight."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from common.tasks.scores import f1_scores
from common.training.data_order import EpochOrder


class Scores(NamedTuple):
    """F1 (%) over the classes' samples together and mean over classes; None without a set."""

    micro: float
    macro: float


class AuxiliaryTask(Protocol):
    """What is trained: ``network`` has both tasks' heads."""

    network: nn.Module

    def main_cost(self, step: int) -> Tensor:
        """Mean loss of a training batch of the main task, a function of ``step``."""

    def meta_cost(self, step: int) -> Tensor:
        """The same of a batch of its own, from the same training data."""

    def auxiliary_batch(self, step: int) -> Any:
        """A batch of the auxiliary task, masks and all."""

    def auxiliary_losses(self, batch: Any) -> Tensor:
        """(n,) losses to weight."""

    def scores(self) -> tuple[Scores | None, Scores]:
        """Of the validation set, if there is one, and of the test set, in evaluation mode."""

    def weight_metrics(self, weights: nn.Module) -> dict[str, float]:
        """Mean of the weights that a trained network gives the auxiliary losses, and of groups."""


class Rows:
    """Row numbers of batch after batch; each epoch another order, a function of the step alone."""

    def __init__(self, count: int, size: int, seed: int) -> None:
        self._order = EpochOrder(count, min(count, size), seed=seed)

    def at(self, step: int) -> Tensor:
        """Those of a step."""
        epoch, place = divmod(step, self._order.steps_per_epoch)
        return torch.tensor(next(self._order.batches(epoch, place)))


def scored(logits: Tensor, labels: Tensor) -> Scores:
    """Scores of (n, classes) logits."""
    return Scores(*f1_scores(logits.argmax(1), labels, logits.shape[1]))
