"""A main task with few labels, and an auxiliary one on the same network with losses to weight."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from common.errors import InputError
from common.tasks.scores import f1_scores
from common.training.data_order import EpochOrder, mixed


class Scores(NamedTuple):
    """F1 (%) over the classes' samples together and mean over classes; None without a set."""

    micro: float
    macro: float


class AuxiliaryTask(Protocol):
    """What is trained."""

    @property
    def network(self) -> nn.Module:
        """Has both tasks' heads."""

    @property
    def steps_per_epoch(self) -> int:
        """Training batches of the main task in an epoch."""

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


class Sizes(NamedTuple):
    """Of the batches; and the share of the labelled data that is meta data alone."""

    main: int
    meta: int
    auxiliary: int
    meta_share: float = 0.0


class Rows:
    """Row numbers of batch after batch; each epoch another order, a function of the step alone.

    Args:
        rows: from the first to one past the last.
        size: of a batch; at most all rows.
        seed: of the orders.
    """

    def __init__(self, rows: range, size: int, seed: int) -> None:
        self._start = rows.start
        self._order = EpochOrder(len(rows), min(len(rows), size), seed=seed)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return self._order.steps_per_epoch

    def at(self, step: int) -> Tensor:
        """Those of a step."""
        epoch, place = divmod(step, self._order.steps_per_epoch)
        return self._start + torch.tensor(next(self._order.batches(epoch, place)))


class Batches(NamedTuple):
    """Rows of the labelled data for either level, and of the auxiliary data."""

    main: Rows
    meta: Rows
    auxiliary: Rows


def make_batches(labelled: int, auxiliary: int, sizes: Sizes, seed: int) -> Batches:
    """Without a share of its own the meta level has the training data of the main task.

    Raises:
        InputError: the share leaves one of the levels nothing.
    """
    own = round(sizes.meta_share * labelled)
    if sizes.meta_share and not 0 < own < labelled:
        raise InputError(
            f"meta_share {sizes.meta_share:g}: is {own} of {labelled} labelled samples; allowed:"
            f" 1 to {labelled - 1}"
        )
    rest = labelled - own
    return Batches(
        Rows(range(rest), sizes.main, mixed(seed, 0)),
        Rows(range(rest, labelled) if own else range(labelled), sizes.meta, mixed(seed, 1)),
        Rows(range(auxiliary), sizes.auxiliary, mixed(seed, 2)),
    )


def scored(logits: Tensor, labels: Tensor) -> Scores:
    """Scores of (n, classes) logits."""
    return Scores(*f1_scores(logits.argmax(1), labels, logits.shape[1]))
