"""One epoch of a data loader that keeps no position, gone through so that it can be found again.

A loader's order is drawn when its epoch begins. So a position is the generators' states then, and
how many batches were taken; going there draws the order anew and takes as many. What was taken last
must come out the same, or the order hangs on something that no state holds.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from common.errors import InputError
from common.random_state import global_states, set_global_states
from papers.betty.problems.generators import find_generators, get_state, set_state


class LoaderEpoch:
    """Iterator over ``loader``, with a state.

    Of a torch loader over a map-style data set only the indices are gone through again, without
    reading a sample; of other iterables the batches themselves.

    Args:
        loader: any iterable of batches.
        device: of the program, whose generator may be drawn from.
        opened: states of generators to begin the epoch with; None for the present ones.
    """

    def __init__(self, loader: Any, device: torch.device, opened: Any = None) -> None:
        self._device, self._generators = device, find_generators(find_parts(loader))
        self._indices: _Indices | None = None
        # A list or tuple draws nothing, and may be one batch: looking would take longer.
        self._draws = not isinstance(loader, list | tuple)
        self._workers = int(getattr(loader, "num_workers", 0))
        self._set(opened)
        self._opened = self._states() if opened is None else opened
        self._first: Any = None
        self._taken, self._last = 0, None
        self._batches = iter(self._indexed(loader))

    def _indexed(self, loader: Any) -> Any:
        """``loader`` with its indices counted, where it goes by them."""
        plain = isinstance(loader, DataLoader) and type(loader).__iter__ is DataLoader.__iter__
        if not plain or self._workers or isinstance(loader.dataset, IterableDataset):
            return loader
        which = "sampler" if loader.batch_sampler is None else "batch_sampler"
        self._indices = _Indices(getattr(loader, which))
        # A DataLoader refuses the assignment, so it is a copy that gets it.
        counted = copy.copy(loader)
        vars(counted)[which] = self._indices
        return counted

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self._taken == 0:
            self._first = self._states()
        batch = next(self._batches)
        self._taken += 1
        if self._indices is None:
            self._last = batch
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Position, and what the order was drawn from.

        Raises:
            InputError: worker processes have read on, with generators of their own.
        """
        if self._workers:
            raise InputError(
                f"its data loader has num_workers={self._workers}, whose positions and generators"
                " no state holds; allowed: 0, or a loader with state_dict and load_state_dict"
            )
        return {
            "opened": self._opened,
            "first": self._first,
            "taken": self._taken,
            "seen": self._seen(),
        }

    @classmethod
    def at(cls, state: Mapping[str, Any], loader: Any, device: torch.device) -> LoaderEpoch:
        """The epoch of ``loader`` at the position that another epoch's :meth:`state_dict` gave.

        Leaves generators as the order needs them; the caller puts them to their present states.

        Raises:
            InputError: that position is not found again.
        """
        epoch = cls(loader, device, state["opened"])
        epoch._first, epoch._taken = state["first"], int(state["taken"])
        epoch._go_on()
        if epoch._seen() != state["seen"]:
            raise InputError(
                f"its data loader gives another batch {epoch._taken} of the epoch than in the"
                " program that was saved: other data, or an order from a generator that is no"
                " attribute of loader, sampler or data set; allowed: the same data and order, or a"
                " loader with state_dict and load_state_dict"
            )
        return epoch

    def _go_on(self) -> None:
        if self._taken:
            self._set(self._first)
        source = self._batches if self._indices is None else self._indices
        try:
            for _ in range(self._taken):
                self._last = next(source)
        except StopIteration:
            raise InputError(f"its data loader ends before its batch {self._taken}") from None

    def _seen(self) -> str:
        if self._indices is not None:
            return self._indices.seen
        return _digest(self._last)

    def _states(self) -> Any:
        if not self._draws or self._workers:
            return None
        return global_states(self._device), [get_state(each) for each in self._generators]

    def _set(self, states: Any) -> None:
        if states is not None:
            set_global_states(states[0], self._device)
            for generator, state in zip(self._generators, states[1], strict=True):
                set_state(generator, state)


class _Indices:
    """Iterator of ``sampler``, with a digest of all that it gave."""

    def __init__(self, sampler: Any) -> None:
        self._sampler, self.seen = sampler, ""

    def __iter__(self) -> Iterator[Any]:
        self._items = iter(self._sampler)
        return self

    def __next__(self) -> Any:
        indices = next(self._items)
        self.seen = hashlib.sha256(f"{self.seen}{indices}".encode()).hexdigest()
        return indices


def find_parts(loader: Any) -> list[Any]:
    """The loader, its samplers and its data set: where generators of an order are kept."""
    parts, new = [], [loader]
    while new:
        parts += new
        names = ("batch_sampler", "sampler", "dataset", "whole")
        below = [
            vars(part).get(name) for part in new if hasattr(part, "__dict__") for name in names
        ]
        new = [part for part in below if part is not None and not any(part is p for p in parts)]
    return parts


def _digest(batch: Any) -> str:
    """Digest of the contents of a nested batch."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, Tensor):
            flat = value.detach().cpu().contiguous().reshape(-1)
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            digest.update(flat.view(torch.uint8).numpy().tobytes())
        elif isinstance(value, np.ndarray) and value.dtype != object:
            digest.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
        elif isinstance(value, Mapping):
            for key, item in value.items():
                add(key)
                add(item)
        elif isinstance(value, list | tuple):
            for item in value:
                add(item)
        elif hasattr(value, "__dict__"):
            add(vars(value))
        else:
            digest.update(repr(value).encode())

    add(batch)
    return digest.hexdigest()
