"""Vectors of which each process holds a part: sums over processes, and D of foreign shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from papers.betty.hypergradient.vectors import Vector


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
    """Euclidean norm of the shards of a vector over all of it."""
    norms = torch._foreach_norm(list(vector))
    return total(torch._foreach_mul(norms, norms), tensors).sqrt()


def dot(a: Sequence[Tensor], b: Sequence[Tensor], tensors: Sequence[Tensor]) -> Tensor:
    """Inner product of the shards of two vectors over all of them."""
    products = torch._foreach_mul(list(a), list(b))
    return total([product.sum() for product in products], tensors)


class Shares:
    """Whole vectors from shares of tensors, each of which one process has.

    Args:
        own: places, among ``shapes``, of the tensors that this process has.
        shapes: of all tensors.
        group: processes; all must take part.
    """

    def __init__(self, own: Sequence[int], shapes: Sequence[torch.Size], group: Any) -> None:
        self.shapes, self.group = shapes, group
        self.owned: list[list[int]] = [[] for _ in range(dist.get_world_size(group))]
        dist.all_gather_object(self.owned, list(own), group=group)
        self.own = self.owned[dist.get_rank(group)]
        self.longest = max(sum(shapes[place].numel() for place in each) for each in self.owned)

    def gather(self, values: Sequence[Tensor]) -> Vector:
        """``values``, of which each process has computed its own, as their owners have them.

        One all-gather, of as many numbers as there are but for padding.
        """
        flat = values[0].new_zeros(self.longest)
        if self.own:
            mine = torch.cat([values[place].reshape(-1) for place in self.own])
            flat[: len(mine)] = mine
        everyone = flat.new_empty(len(self.owned) * self.longest)
        dist.all_gather_into_tensor(everyone, flat, group=self.group)
        whole = list(values)
        for places, part in zip(self.owned, everyone.view(len(self.owned), -1), strict=True):
            sizes = [self.shapes[place].numel() for place in places]
            pieces = torch.split(part[: sum(sizes)], sizes)
            for place, piece in zip(places, pieces, strict=True):
                whole[place] = piece.view(self.shapes[place])
        return whole
