"""Vectors of which each process holds a part (FSDP2): sums over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from papers.betty.hypergradient import vectors


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a DTensor, as FSDP2 makes them."""
    return hasattr(tensor, "to_local")


def total(parts: Sequence[Tensor], tensors: Sequence[Tensor]) -> Tensor:
    """Sum of one number a tensor, each computed from this process's shard of that tensor.

    One all-reduce for each way in which ``tensors`` are spread, none for those that are whole.
    """
    kinds: dict[Any, list[Tensor]] = {}
    for part, tensor in zip(parts, tensors, strict=True):
        kind = (tensor.device_mesh, tensor.placements) if is_sharded(tensor) else None  # type: ignore[attr-defined]
        kinds.setdefault(kind, []).append(part)
    sums = []
    for kind, alike in kinds.items():
        value = torch.stack(alike).sum()
        sums.append(value if kind is None else _over_processes(value, *kind))
    return torch.stack(sums).sum()


def _over_processes(value: Tensor, mesh: Any, placements: Sequence[Any]) -> Tensor:
    from torch.distributed.tensor import DTensor, Partial, Replicate

    kinds = [Partial() if place.is_shard() else Replicate() for place in placements]
    whole: Tensor = DTensor.from_local(value, mesh, kinds, run_check=False).full_tensor()
    return whole


def norm(vector: Sequence[Tensor], tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of a vector, given its shards, shaped like those of ``tensors``."""
    if not any(is_sharded(tensor) for tensor in tensors):
        return vectors.norm(vector)
    norms = torch._foreach_norm(list(vector))
    return total(torch._foreach_mul(norms, norms), tensors).sqrt()


def dot(a: Sequence[Tensor], b: Sequence[Tensor], tensors: Sequence[Tensor]) -> Tensor:
    """Inner product of two vectors, given their shards, shaped like those of ``tensors``."""
    if not any(is_sharded(tensor) for tensor in tensors):
        return vectors.dot(a, b)
    products = torch._foreach_mul(list(a), list(b))
    return total([product.sum() for product in products], tensors)
