"""Weights moved to both sides of where they are: the ends of a central difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import TracebackType

import torch
from torch import Tensor

from common.errors import InputError
from papers.betty.hypergradient.shards import norm
from papers.betty.hypergradient.vectors import local

#: A shift must be so many times the resolution of the weights: rounding then makes up some percent.
RESOLVED = 16


class Shift:
    """Context in which weights can be moved to ``w + eps v`` and ``w - eps v``.

    ``eps = alpha / |v|``, the norm over all weights (Choe et al. 2023). Afterwards they are
    restored bit for bit; with ``nudge`` they stay at ``w - eps v``, which takes no copy of them.

    Args:
        weights: they may be sharded (DTensors).
        vector: v, shaped like their shards.

    Raises:
        InputError: v is not finite.
    """

    def __init__(
        self, weights: Sequence[Tensor], vector: Sequence[Tensor], alpha: float, nudge: bool
    ) -> None:
        length = norm(vector, weights)
        if not math.isfinite(length):
            raise InputError(
                f"hypergradient: the perturbation has norm {float(length)}; allowed: finite"
                " derivatives of the upper cost by the lower weights, and of the lower optimiser's"
                " last step"
            )
        self.eps = float(alpha / (length + 1e-15))
        self._weights, self._vector, self._nudge = local(weights), list(vector), nudge
        self._kept: list[Tensor] = []
        self._at = 0

    def __enter__(self) -> Shift:
        if not self._nudge:
            self._kept = [weight.detach().clone() for weight in self._weights]
        return self

    @torch.no_grad()
    def to(self, side: int) -> None:
        """Move weights to ``w + side eps v``."""
        if side != self._at:
            torch._foreach_add_(self._weights, self._vector, alpha=(side - self._at) * self.eps)
            self._at = side

    @torch.no_grad()
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self._nudge:
            torch._foreach_copy_(self._weights, self._kept)
        elif kind is not None:
            self.to(0)


def describe_rounding(weights: Sequence[Tensor], alpha: float, resolution: float) -> str | None:
    """What a warning says of a shift that is rounded away: the difference would be noise, or 0.

    Args:
        resolution: relative distance of neighbouring numbers in the forward pass.
    """
    length = float(norm([weight.detach() for weight in local(weights)], weights))
    resolved = resolution * length
    if alpha >= RESOLVED * resolved:
        return None
    return (
        f"a finite difference shifts the weights, of norm {length:.3g}, by {alpha:g}, of which"
        f" their precision resolves {resolved:.2g}, so that the hypergradient is largely rounding"
    )
