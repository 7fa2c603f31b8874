"""Clipping of gradients before the step, as a link of the chain: ``u(clip(g))``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from papers.betty.hypergradient.vectors import Vector

from .shards import dot

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
            vector, clipped: v and g', shards of parts of ``weights``.
        """
        norm = float(self.norm)
        factor = self.largest / (norm + EPS)
        if factor >= 1:
            return vector
        along = dot(clipped, vector, weights) / (factor**2 * norm * (norm + EPS))
        radial = torch._foreach_mul(list(clipped), along)
        return list(torch._foreach_mul(torch._foreach_sub(vector, radial), factor))


@dataclass(frozen=True)
class ValueClip:
    """``g' = clamp(g, -c, c)``, element by element."""

    largest: float

    def product(
        self, vector: Vector, clipped: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> Vector:
        """v where ``|g'| < c``, 0 elsewhere."""
        room = torch._foreach_abs(list(clipped))
        # c in the gradients' precision, in which clipped elements equal it.
        limits = [torch.tensor(self.largest, dtype=part.dtype).item() for part in clipped]
        torch._foreach_sub_(room, limits)
        torch._foreach_sign_(room)  # -1 inside
        return list(torch._foreach_mul(vector, torch._foreach_neg(room)))


Clip = NormClip | ValueClip
