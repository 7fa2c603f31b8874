"""Score-function gradient, for a lower problem whose solution is sampled. Source: Williams 1992."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from papers.betty.hypergradient.differentiable import Differentiable, Lower, Upper, select_tensors
from papers.betty.hypergradient.vectors import Partial, Vector, split

#: Weight of the newest cost in the running mean that serves as baseline.
BASELINE_RATE = 0.1


def reinforce(
    _vector: Vector, curr: Lower, prevs: Sequence[Differentiable], upper: Upper
) -> list[Partial]:
    """``(C - baseline) d log p/dprev``: an unbiased estimate of ``d E[C]/dprev``.

    ``C`` is the last cost of ``upper``, ``p`` the distribution from which ``curr`` drew its
    solution (its method ``log_prob``), the baseline a running mean of earlier costs.
    """
    cost = upper.last_loss
    baseline = upper.baseline if upper.baseline is not None else cost
    upper.baseline = baseline + BASELINE_RATE * (cost - baseline)
    parts = select_tensors(prevs, upper)
    chance = curr.log_prob()
    flat = torch.autograd.grad(
        chance,
        [tensor for part in parts for tensor in part],
        torch.full_like(chance, cost - baseline),  # so that hooks on them see the product
        allow_unused=True,
    )
    return split(flat, parts)
