"""Splits of a data set, and seeded batches of tensors whose position can be saved."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError
from common.training.data_order import EpochOrder

Transform = Callable[[Tensor], Tensor]


class Batches:
    """Batches of (inputs, targets), one epoch an iteration; each epoch is another permutation.

    Part of a problem's state: a resumed program goes on with the batch after the last one.

    Args:
        tensors: (n, ...) each; a batch is a tuple of rows of all of them.
        size: rows of a batch, over all processes; at most n is taken, and the last incomplete
            batch is left out.
        seed: of the permutations.
        transform: applied to the first tensor of a batch.
    """

    def __init__(
        self, *tensors: Tensor, size: int, seed: int, transform: Transform | None = None
    ) -> None:
        rows = len(tensors[0])
        self._tensors, self._transform = tensors, transform
        self._order = EpochOrder(rows, min(size, rows), seed=seed)
        self._epoch, self._taken = 0, 0

    def __len__(self) -> int:
        return self._order.steps_per_epoch

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for rows in self._order.batches(self._epoch, self._taken):
            self._taken += 1
            index = torch.tensor(rows)  # once; a list would be turned into one for each tensor
            first, *rest = (tensor[index] for tensor in self._tensors)
            yield (self._transform(first) if self._transform else first, *rest)
        self._epoch, self._taken = self._epoch + 1, 0

    def divided(self, rank: int, count: int) -> Batches:
        """The same batches, of each the share of process ``rank`` of ``count``."""
        share = copy.copy(self)
        share._order = divided(self._order, rank, count)
        return share

    def state_dict(self) -> dict[str, Any]:
        """Position."""
        return {"epoch": self._epoch, "taken": self._taken}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state_dict`; takes effect at the next iteration."""
        self._epoch, self._taken = state["epoch"], state["taken"]


def divided(order: EpochOrder, rank: int, count: int) -> EpochOrder:
    """``order`` for process ``rank`` of ``count``. Raises InputError if a batch does not divide."""
    if order.global_batch_size % count:
        raise InputError(
            f"batches of {order.global_batch_size} samples: must be a multiple of the {count}"
            " processes"
        )
    share = copy.copy(order)
    share.rank, share.world_size = rank, count
    return share


class Split(NamedTuple):
    """Inputs and labels."""

    x: Tensor
    y: Tensor


def per_class(
    labels: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(indices of ``count`` random samples of each class, the others).

    Raises: InputError if a class has no more than that.
    """
    smallest = int(np.unique(labels, return_counts=True)[1].min())
    if count >= smallest:
        raise InputError(f"{count} samples of each class: allowed below {smallest}, the smallest")
    chosen = np.concatenate(
        [
            rng.choice(np.flatnonzero(labels == label), count, replace=False)
            for label in np.unique(labels)
        ]
    )
    return chosen, np.setdiff1d(np.arange(len(labels)), chosen)
