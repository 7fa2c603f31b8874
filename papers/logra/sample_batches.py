"""Samples of a nested batch: tensors with the samples first in tuples, lists and mappings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from common.errors import InputError


def samples_of(batch: Any) -> int:
    """Samples of a batch: the length of its first tensor. Raises InputError where there is none."""
    if isinstance(batch, Tensor) and batch.dim():
        return len(batch)
    parts = batch.values() if isinstance(batch, Mapping) else batch
    for part in parts if isinstance(parts, list | tuple) or isinstance(batch, Mapping) else ():
        try:
            return samples_of(part)
        except InputError:
            continue
    raise InputError(f"a {type(batch).__name__} without tensors; allowed: tensors, samples first")


def take(batch: Any, place: int, size: int) -> Any:
    """One sample of a batch of this size, as a batch; what has no such axis stays."""
    return _mapped(batch, lambda t: t[place : place + 1] if t.dim() and len(t) == size else t)


def without_padding(sample: Any, counted: Tensor) -> Any:
    """A batch of one sample with only the tokens that count, of tensors (1, t, ...).

    Args:
        counted: (t,).
    """
    return _mapped(
        sample, lambda t: t[:, counted] if t.dim() > 1 and t.shape[1] == len(counted) else t
    )


def _mapped(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, Mapping):
        return {name: _mapped(part, change) for name, part in batch.items()}
    if isinstance(batch, list | tuple):
        parts = [_mapped(part, change) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return batch
