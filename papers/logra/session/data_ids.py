"""What samples are called."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from common.errors import InputError

IdMode = Literal["hash", "index"]


class DataIDGenerator:
    """Ids of batches: a hash of each sample, or a number that goes on from batch to batch.

    Args:
        mode: ``hash`` or ``index``.

    Raises:
        InputError: another mode.
    """

    def __init__(self, mode: IdMode = "hash") -> None:
        if mode not in get_args(IdMode):
            raise InputError(f"mode {mode!r}; allowed: {', '.join(get_args(IdMode))}")
        self.mode, self.count = mode, 0

    def __call__(self, data: Sequence[Any], *others: Sequence[Any]) -> list[str]:
        """One id for each sample of a batch.

        Args:
            data: inputs.
            others: what else tells samples apart: give targets too, for equal inputs with
                different targets are different samples.

        Raises:
            InputError: batches of different lengths.
        """
        if any(len(other) != len(data) for other in others):
            lengths = [len(other) for other in (data, *others)]
            raise InputError(f"batches of {lengths} samples; allowed: equal lengths")
        if self.mode == "hash":
            return [_hash(sample) for sample in zip(data, *others, strict=True)]
        first, self.count = self.count, self.count + len(data)
        return [str(number) for number in range(first, self.count)]


def normalise_ids(data_id: Iterable[Any] | Tensor) -> list[str]:
    """Ids as they are stored: strings; numbers as text; tensors of several numbers by hash.

    Raises:
        InputError: one string for all samples, no list of ids, or an empty one.
    """
    listed = isinstance(data_id, Iterable) and not isinstance(data_id, str | bytes)
    if not listed or (isinstance(data_id, Tensor | np.ndarray) and data_id.ndim == 0):
        raise InputError(f"data_id {data_id!r}; allowed: a list, one id for each sample")
    found = [_id(sample) for sample in data_id]
    if not found:
        raise InputError("data_id of no sample; allowed: batches of at least one")
    return found


def _id(sample: Any) -> str:
    if isinstance(sample, str):
        return sample
    if isinstance(sample, Tensor | np.ndarray):
        return str(sample.item()) if sample.ndim == 0 else _hash((sample,))
    return str(sample)


def _hash(parts: Iterable[Any]) -> str:
    """SHA-256 of types, shapes and values."""
    whole = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            part = part.detach().cpu()
            # numpy knows no bfloat16, which float32 holds exactly.
            part = part.float() if part.dtype == torch.bfloat16 else part
        if isinstance(part, str):
            whole.update(part.encode())
            continue
        value = np.ascontiguousarray(part)
        whole.update(f"{value.dtype} {value.shape} ".encode())
        whole.update(value.tobytes())
    return whole.hexdigest()
