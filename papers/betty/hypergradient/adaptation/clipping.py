"""Clipping of gradients before the step, as a link of the chain: ``u(clip(g))``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from papers.betty.hypergradient.adaptation.step import precise
from papers.betty.hypergradient.shards import dot
from papers.betty.hypergradient.vectors import Vector

#: What torch adds to the norm that it divides by.
EPS = 1e-6


@dataclass(frozen=True)
class NormClip:
    """``g' = k g``, ``k = min(1, c / (n + eps))``, ``n = |g|`` over all clipped gradients."""

    norm: Tensor
    largest: float

    def product(
        self, vector: Vector, clipped: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> Vector:
        """``k (v - (g'v) g' / (k^2 n (n + eps)))``; not diagonal, but symmetric.

        Args:
            vector: v, a shard of ``weights``.
            clipped: g', of its own precision.
        """
        norm = float(self.norm)
        factor = self.largest / (norm + EPS)
        if factor >= 1:
            return vector
        clipped = precise(clipped)
        along = dot(clipped, vector, weights) / (factor**2 * norm * (norm + EPS))
        radial = torch._foreach_mul(clipped, along)
        return list(torch._foreach_mul(torch._foreach_sub(vector, radial), factor))


@dataclass(frozen=True)
class ValueClip:
    """``g' = clamp(g, -c, c)``, element by element."""

    largest: float

    def product(
        self, vector: Vector, clipped: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> Vector:
        """v where ``|g'| < c``, 0 elsewhere."""
        # c in each gradient's own precision, in which clipped elements equal it.
        limits = [torch.tensor(self.largest, dtype=part.dtype).item() for part in clipped]
        inside = [part.abs() < c for part, c in zip(clipped, limits, strict=True)]
        return [part * mask for part, mask in zip(vector, inside, strict=True)]


Clip = NormClip | ValueClip
