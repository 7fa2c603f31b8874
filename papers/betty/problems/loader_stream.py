"""Batches of a problem's data loaders, one from each at a time, epoch after epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from common.batches import to_device
from common.errors import InputError
from common.random_state import global_states, set_global_states
from papers.betty.problems.generators import find_generators, get_state, set_state


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
            self._iterators = [self._epoch(loader) for loader in self.loaders]
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
            self._tell_epoch(index)
            self._iterators[index] = self._epoch(loader)
            try:
                batch = next(self._iterators[index])
            except StopIteration:
                raise InputError(f"problem {self.name!r}: its data loader is empty") from None
        return to_device(batch, self.device)

    def replace(self, index: int, loader: Iterable[Any]) -> None:
        """Take another loader, from its beginning."""
        self.loaders = (*self.loaders[:index], loader, *self.loaders[index + 1 :])
        if self._iterators:
            self._iterators[index] = self._epoch(loader)

    def _epoch(self, loader: Any) -> Iterator[Any]:
        if _has_state(loader):
            return iter(loader)
        from papers.betty.problems.loader_epoch import LoaderEpoch  # not where loaders have states

        return LoaderEpoch(loader, self.device)

    def _tell_epoch(self, index: int) -> None:
        loader = self.loaders[index]
        for part in (loader, getattr(loader, "sampler", None)):
            if part is not None and hasattr(part, "set_epoch"):
                part.set_epoch(self.epochs[index])

    def _generators(self) -> list[Any]:
        plain = [loader for loader in self.loaders if not _has_state(loader)]
        if not plain:
            return []
        from papers.betty.problems.loader_epoch import find_parts

        return find_generators(part for loader in plain for part in find_parts(loader))

    @property
    def started(self) -> bool:
        """Whether a batch was taken."""
        return bool(self._iterators)

    def state_dict(self) -> dict[str, Any]:
        """Epochs, positions of the loaders that keep none themselves, and their generators.

        Raises:
            InputError: a position cannot be kept.
        """
        try:
            positions = [
                None if _has_state(loader) else epoch.state_dict()  # type: ignore[attr-defined]
                for loader, epoch in zip(self.loaders, self._iterators, strict=False)
            ]
        except InputError as error:
            raise InputError(f"problem {self.name!r}: {error}") from None
        generators = [get_state(generator) for generator in self._generators()]
        return {"epochs": list(self.epochs), "positions": positions, "generators": generators}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of :meth:`state_dict`, after loaders with a state have been given theirs.

        Raises:
            InputError: there were other loaders, or one cannot be put to its position.
        """
        generators = self._generators()
        counts = [(len(state["epochs"]), len(self.loaders), "data loaders")]
        counts += [(len(state["generators"]), len(generators), "generators in its data loaders")]
        for was, there, what in counts:
            if was != there:
                raise InputError(f"problem {self.name!r}: its state has {was} {what}, not {there}")
        self.epochs, self._iterators = list(state["epochs"]), []
        present = global_states(self.device)
        try:
            for index, position in enumerate(state["positions"]):
                if self.epochs[index]:
                    self._tell_epoch(index)
                self._iterators.append(self._found(self.loaders[index], position))
        finally:
            set_global_states(present, self.device)
        for generator, kept in zip(generators, state["generators"], strict=True):
            set_state(generator, kept)

    def _found(self, loader: Any, position: Mapping[str, Any] | None) -> Iterator[Any]:
        if (position is None) != _has_state(loader):
            raise InputError(
                f"problem {self.name!r}: its data loader has a state of its own here and not in"
                " the program that was saved, or the other way round; allowed: both alike"
            )
        if position is None:
            return iter(loader)
        from papers.betty.problems.loader_epoch import LoaderEpoch

        try:
            return LoaderEpoch.at(position, loader, self.device)
        except InputError as error:
            raise InputError(f"problem {self.name!r}: {error}") from None

    def with_state(self) -> dict[str, Any]:
        """Loaders whose position can be kept, by the names of their states."""
        return {
            f"loader{index}": loader
            for index, loader in enumerate(self.loaders)
            if _has_state(loader)
        }


def _has_state(loader: Any) -> bool:
    return hasattr(loader, "load_state_dict")
