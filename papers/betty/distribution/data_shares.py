"""Each of K processes takes every K-th batch of a data loader, or its share of every batch."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence, Sized
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from common.errors import InputError


class Communicator(Protocol):
    """One of several processes, and what they say to one another."""

    rank: int
    world_size: int

    def broadcast(self, tensors: Sequence[Tensor], source: int = 0) -> None:
        """Give every process the values that process ``source`` has."""


def take_share(loader: Iterable[Any], processes: Communicator, name: str) -> Iterable[Any]:
    """Batches ``rank``, ``rank + K``, ... of ``loader``, which must be in one order everywhere.

    A loader with a method ``divided(rank, K)`` gives of each batch the share of a process instead.
    A torch loader over a map-style data set fetches its own batches alone, and a random sampler's
    generator is made the same in every process; of other iterables each process goes through all
    batches. Loaders that share already, i.e. whose sampler has ``num_replicas`` (as
    ``DistributedSampler``) or ``num_processes`` (accelerate's), are left as they are.

    Raises:
        InputError: there are fewer batches than processes, or a batch does not divide.
    """
    count = processes.world_size
    parts = _parts(loader)
    if count == 1 or any(_shares(part) for part in parts):
        return loader
    if hasattr(loader, "divided"):
        try:
            return loader.divided(processes.rank, count)  # type: ignore[no-any-return]
        except InputError as error:
            raise InputError(f"problem {name!r}: {error}") from None
    batches = len(loader) if isinstance(loader, Sized) else count
    if batches < count:
        raise InputError(
            f"problem {name!r}: its data loader has {batches} batches for {count} processes;"
            " allowed: one or more for each, or a batch for all from get_batch"
        )
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return RoundShare(loader, processes.rank, count)
    for part in parts[1:]:
        _agree(part, processes)
    which = "sampler" if loader.batch_sampler is None else "batch_sampler"
    # A copy keeps every option, and what a subclass adds; a DataLoader refuses the assignment only
    # because its other arguments were checked against the first sampler.
    shared = copy.copy(loader)
    vars(shared)[which] = RoundShare(getattr(loader, which), processes.rank, count)
    return shared


class RoundShare:
    """Item ``rank`` of each ``num_replicas`` successive ones; an incomplete last round is left out.

    A whole round is taken before its item is given, so that a position that ``whole`` counts, and
    that is saved, is the same in every process. Other attributes are those of ``whole``.
    """

    def __init__(self, whole: Any, rank: int, num_replicas: int) -> None:
        self.whole, self.rank, self.num_replicas = whole, rank, num_replicas

    def __iter__(self) -> Iterator[Any]:
        items = iter(self.whole)
        while len(taken := list(islice(items, self.num_replicas))) == self.num_replicas:
            yield taken[self.rank]

    def __len__(self) -> int:
        return len(self.whole) // self.num_replicas

    def __getattr__(self, name: str) -> Any:
        if name == "whole":  # not there yet, while a copy is made
            raise AttributeError(name)
        return getattr(self.whole, name)


def _parts(loader: Iterable[Any]) -> list[Any]:
    """The loader and its samplers."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    samplers = [getattr(loader, "sampler", None), getattr(batch_sampler, "sampler", None)]
    return [loader, *(part for part in (batch_sampler, *samplers) if part is not None)]


def _shares(part: Any) -> bool:
    return hasattr(part, "num_replicas") or hasattr(part, "num_processes")


def _agree(sampler: Any, processes: Communicator) -> None:
    """Let a random sampler draw in every process what it draws in the first one."""
    if not hasattr(sampler, "generator"):
        return
    if sampler.generator is None:
        seed = int(torch.empty((), dtype=torch.int64).random_())
        sampler.generator = torch.Generator().manual_seed(seed)
    state = sampler.generator.get_state()
    processes.broadcast([state])
    sampler.generator.set_state(state)
