"""Memory of backward passes, counted: a measure that machines without a GPU have, too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class SavedTensors:
    """Bytes that autograd holds for backward passes: now, and at most so far.

    A deterministic measure of memory on machines without a GPU. A storage that several graphs hold
    counts once; parameters do not count.
    """

    def __init__(self) -> None:
        self.peak_bytes, self._bytes = 0, 0
        self._holders: Counter[int] = Counter()

    @contextmanager
    def watched(self) -> Iterator[SavedTensors]:
        """Count what is saved while this is open."""
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: _Held(tensor, self), lambda held: held.tensor
        ):
            yield self

    def hold(self, tensor: Tensor) -> None:
        """One more graph holds a tensor's storage."""
        storage = tensor.untyped_storage()
        self._holders[storage.data_ptr()] += 1
        if self._holders[storage.data_ptr()] == 1:
            self._bytes += storage.nbytes()
            self.peak_bytes = max(self.peak_bytes, self._bytes)

    def release(self, tensor: Tensor) -> None:
        """One graph fewer holds it."""
        storage = tensor.untyped_storage()
        self._holders[storage.data_ptr()] -= 1
        if self._holders[storage.data_ptr()] == 0:
            self._bytes -= storage.nbytes()


class _Held:
    """A tensor in a graph; it leaves the count when the graph is freed."""

    def __init__(self, tensor: Tensor, meter: SavedTensors) -> None:
        # Detached: an output that its own node saves would keep that node alive.
        self.tensor, self._meter = tensor.detach(), meter
        self._counts = not (tensor.is_leaf and tensor.requires_grad)
        if self._counts:
            meter.hold(tensor)

    def __del__(self) -> None:
        if self._counts:
            self._meter.release(self.tensor)
