"""Samples of a nested batch: tensors with the samples first in tuples, lists and mappings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from common.errors import InputError


def take_samples(batch: Any, places: Sequence[int], n: int) -> Any:
    """The batch of some samples of a nested batch of ``n``; what is not by sample stays.

    Tensors whose first dimension is ``n``, and lists of ``n`` that hold no tensor, are by sample.

    Returns:
        The batch, or None where no part of it is by sample.
    """
    cut = False

    def taken(part: Any) -> Any:
        nonlocal cut
        if isinstance(part, Tensor):
            if part.ndim == 0 or len(part) != n:
                return part
            cut = True
            return part[torch.as_tensor(list(places), device=part.device)]
        if isinstance(part, Mapping):
            return {key: taken(value) for key, value in part.items()}
        if isinstance(part, tuple) and hasattr(part, "_fields"):
            return type(part)(*(taken(value) for value in part))
        if isinstance(part, list | tuple):
            if len(part) == n and not any(isinstance(value, Tensor) for value in part):
                return type(part)(part[place] for place in places)
            return type(part)(taken(value) for value in part)
        return part

    found = taken(batch)
    return found if cut else None


def rows_in(batch: Any) -> int:
    """Samples of a nested batch: the length of its first tensor.

    Raises:
        InputError: there is no tensor in it.
    """
    found = _first_tensor(batch)
    if found is None or found.ndim == 0:
        raise InputError(
            f"a batch of type {type(batch).__name__}; allowed: a tensor, or mappings and lists with"
            " one, whose first dimension is the samples"
        )
    return len(found)


def _first_tensor(batch: Any) -> Tensor | None:
    if isinstance(batch, Tensor):
        return batch
    parts = batch.values() if isinstance(batch, Mapping) else batch
    if not isinstance(batch, Mapping | list | tuple):
        return None
    return next((found for part in parts if (found := _first_tensor(part)) is not None), None)


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
