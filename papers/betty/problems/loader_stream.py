"""Batches of a problem's data loaders, one from each at a time, epoch after epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from common.batches import to_device
from common.errors import InputError


class LoaderStream:
    """Goes on for ever over data loaders that end.

    Args:
        name: of the problem, for errors.
        loaders: any iterables of batches; a loader, or its sampler, with ``set_epoch`` is told.
        device: where the batches go.
        after_epoch: called when the first loader has ended.
    """

    def __init__(
        self,
        name: str,
        loaders: Sequence[Any],
        device: torch.device,
        after_epoch: Callable[[], None],
    ) -> None:
        self.name, self.loaders, self.device = name, tuple(loaders), device
        self.epochs = [0] * len(self.loaders)
        self._after_epoch = after_epoch
        self._iterators: list[Iterator[Any]] = []

    def next(self) -> Any:
        """The next batch; a tuple of one from each loader if there are several.

        Raises:
            InputError: a loader is empty.
        """
        if not self._iterators:
            self._iterators = [iter(loader) for loader in self.loaders]
        batches = tuple(self._next(index) for index in range(len(self._iterators)))
        return batches[0] if len(batches) == 1 else batches

    def _next(self, index: int) -> Any:
        try:
            batch = next(self._iterators[index])
        except StopIteration:
            if index == 0:
                self._after_epoch()
            self.epochs[index] += 1
            loader = self.loaders[index]
            for part in (loader, getattr(loader, "sampler", None)):
                if part is not None and hasattr(part, "set_epoch"):
                    part.set_epoch(self.epochs[index])
            self._iterators[index] = iter(loader)
            try:
                batch = next(self._iterators[index])
            except StopIteration:
                raise InputError(f"problem {self.name!r}: its data loader is empty") from None
        return to_device(batch, self.device)

    def replace(self, index: int, loader: Iterable[Any]) -> None:
        """Take another loader, from its beginning."""
        self.loaders = (*self.loaders[:index], loader, *self.loaders[index + 1 :])
        if self._iterators:
            self._iterators[index] = iter(loader)

    def restart(self, epochs: Sequence[int]) -> None:
        """Go on in these epochs, where loaders have been put to their positions."""
        self._iterators, self.epochs = [], list(epochs) or [0] * len(self.loaders)

    def with_state(self) -> dict[str, Any]:
        """Loaders whose position can be kept, by the names of their states."""
        return {
            f"loader{index}": loader
            for index, loader in enumerate(self.loaders)
            if hasattr(loader, "load_state_dict")
        }
