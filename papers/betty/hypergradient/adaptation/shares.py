"""An optimiser's state of which each process has a share (ZeRO): D of foreign shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from papers.betty.hypergradient.vectors import Vector


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
