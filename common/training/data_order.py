"""Data order that depends on seed and epoch alone: resumable in mid-epoch, on any device count.

Each epoch is one permutation. An optimiser step takes the next global batch of it, and devices and
micro-batches take equal slices of that; so a step sees the same samples however many devices share
it. The last samples of an epoch that do not fill a global batch are left out; each epoch leaves out
others.
"""

from __future__ import annotations

import atexit
import random
import signal
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from common.batches import to_device
from common.errors import InputError
from common.training.settings import CoreSettings


class EpochOrder:
    """Indices of every micro-batch of one device.

    Args:
        size: samples in the data set.
        global_batch_size: samples of an optimiser step.
        accumulation: micro-batches of a step on a device.
        rank, world_size: this device, and how many there are.
        seed: of the permutations.

    Raises:
        InputError: the data set is smaller than a global batch.
    """

    def __init__(
        self,
        size: int,
        global_batch_size: int,
        accumulation: int = 1,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
    ) -> None:
        if size < global_batch_size:
            raise InputError(
                f"global_batch_size {global_batch_size}: the data set has {size} samples; "
                f"allowed: at most that many"
            )
        self.size, self.seed, self.accumulation = size, seed, accumulation
        self.global_batch_size, self.rank, self.world_size = global_batch_size, rank, world_size
        self.steps_per_epoch = size // global_batch_size

    def permutation(self, epoch: int) -> torch.Tensor:
        """(size,) order of an epoch, a function of seed and epoch."""
        generator = torch.Generator().manual_seed(mixed(self.seed, epoch))
        return torch.randperm(self.size, generator=generator)

    def batches(self, epoch: int, start: int = 0) -> Iterator[list[int]]:
        """Micro-batches of this device in ``epoch``, from optimiser step ``start`` on."""
        order = self.permutation(epoch)
        share = self.global_batch_size // (self.world_size * self.accumulation)
        for step in range(start, self.steps_per_epoch):
            whole = order[step * self.global_batch_size : (step + 1) * self.global_batch_size]
            for micro in range(self.accumulation):
                place = (micro * self.world_size + self.rank) * share
                yield whole[place : place + share].tolist()


def mixed(*parts: int) -> int:
    """One seed below 2**63 from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


class _Seeded(Dataset[Any]):
    """Seeds every generator before an item, so that a worker's history does not matter."""

    def __init__(self, dataset: Any, seed: int, epoch: int) -> None:
        self.dataset, self.seed, self.epoch = dataset, seed, epoch

    def __getitem__(self, index: int) -> Any:
        seed = mixed(self.seed, self.epoch, index)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)
        return self.dataset[index]


def _leave_stopping_to_the_parent(_worker: int) -> None:
    """A scheduler signals the whole process group; the parent still needs batches to stop well."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


class EpochLoader:
    """Micro-batches on the device, epoch by epoch.

    Random augmentation in ``dataset`` is resumed exactly: without worker processes it draws from
    the global generators, which are part of the resume state; with them every item has a seed of
    its own.
    """

    def __init__(
        self, dataset: Any, order: EpochOrder, settings: CoreSettings, device: torch.device
    ) -> None:
        self.dataset, self.order, self.settings, self.device = dataset, order, settings, device

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in an epoch."""
        return self.order.steps_per_epoch

    def batches(self, epoch: int, start: int = 0) -> Generator[Any, None, None]:
        """Collated micro-batches of ``epoch`` from optimiser step ``start`` on."""
        workers = self.settings.num_workers
        dataset = _Seeded(self.dataset, self.order.seed, epoch) if workers else self.dataset
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=list(self.order.batches(epoch, start)),
            num_workers=workers,
            worker_init_fn=_leave_stopping_to_the_parent,
            pin_memory=self.device.type == "cuda",
            # A private generator: the loader would draw its base seed from the global one.
            generator=torch.Generator().manual_seed(mixed(self.order.seed, epoch, 1)),
        )
        for batch in loaded(loader):
            yield to_device(batch, self.device)


def loaded(loader: DataLoader[Any]) -> Generator[Any, None, None]:
    """Batches of ``loader``, whose worker processes end with the iteration, however it ends.

    Python waits for its children when it exits, which would be for ever: these ignore the signal
    to end, and the iteration that would tell them lives as long as a traceback that has it, or a
    program that did not take its last batch.

    Raises:
        InputError: a data set's own; a worker's has its traceback as text, of which one line stays.
    """
    batches: Any = iter(loader)
    end = getattr(batches, "_shutdown_workers", lambda: None)  # torch has no public name for it
    atexit.register(end)
    try:
        yield from batches
    except InputError as error:
        kind = f"\n{InputError.__module__}.{InputError.__qualname__}: "
        raise InputError(str(error).rpartition(kind)[2].strip()) from None
    finally:
        end()
        atexit.unregister(end)
