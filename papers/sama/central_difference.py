"""Weights moved to both sides of where they are: the ends of a central difference."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from types import TracebackType

import torch
from torch import Tensor

from common.errors import InputError
from papers.betty.hypergradient.vectors import local
from papers.sama.adaptation.shards import norm

log = logging.getLogger("sama")
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
        length = float(norm(vector, weights))
        if not math.isfinite(length):
            raise InputError(
                f"SAMA: the perturbation has norm {length}; allowed: finite derivatives of the"
                " meta loss by the base weights, and of the base optimiser's last step"
            )
        self.eps = alpha / (length + 1e-15)
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


def warn_of_rounding(weights: Sequence[Tensor], alpha: float) -> None:
    """Log a warning of a shift that the weights' precision rounds away."""
    length = float(norm([weight.detach() for weight in local(weights)], weights))
    resolved = max(torch.finfo(weight.dtype).eps for weight in weights) * length
    if alpha < RESOLVED * resolved:
        log.warning(
            "SAMA shifts the base weights, of norm %.3g, by alpha=%g; their precision resolves"
            " %.2g, so that the hypergradient is largely rounding; allowed: weights in fp32, or a"
            " larger alpha",
            length,
            alpha,
            resolved,
        )
