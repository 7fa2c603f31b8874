"""Batches of any structure."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, MutableMapping, MutableSequence
from typing import Any

import torch


def to_device(batch: Any, device: torch.device) -> Any:
    """Tensors of a nested batch on ``device``, copied asynchronously from pinned memory.

    Containers keep their type and whatever else they hold: mappings, sequences, named tuples and
    dataclasses, at any depth. An object with a method ``to`` is asked by that (a packed sequence,
    a tokenizer's encoding, a batch class of one's own); any other is left as it is. The batch
    itself stays where it was.
    """
    clone: Any
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, type):
        return batch
    if callable(getattr(batch, "to", None)):
        batch = copy.copy(batch)  # some move themselves, and a loader may give them again
        try:
            return batch.to(device, non_blocking=True)
        except TypeError:  # without that option
            return batch.to(device)
    if isinstance(batch, MutableMapping):
        # A copy: other types (a defaultdict) are not made from a mapping alone.
        clone = copy.copy(batch)
        for key, value in batch.items():
            clone[key] = to_device(value, device)
        return clone
    if isinstance(batch, Mapping):
        return type(batch)({key: to_device(value, device) for key, value in batch.items()})  # type: ignore[call-arg]
    if isinstance(batch, MutableSequence):
        clone = copy.copy(batch)
        for place, value in enumerate(batch):
            clone[place] = to_device(value, device)
        return clone
    if isinstance(batch, tuple):
        moved = [to_device(value, device) for value in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)
    if dataclasses.is_dataclass(batch):
        clone = copy.copy(batch)  # not by its constructor, which may change what it is given
        for field in dataclasses.fields(batch):
            # Frozen ones too, since the clone is ours.
            object.__setattr__(clone, field.name, to_device(getattr(batch, field.name), device))
        return clone
    return batch
