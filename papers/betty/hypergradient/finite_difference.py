"""AID-FD: the Hessian's inverse taken as the identity, the mixed derivative as a difference.

Source: Choe et al. 2023, Sec. 3.1; Liu et al. 2019 (DARTS), eq. 8.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from papers.betty.hypergradient.differentiable import Differentiable, Lower, Upper, select_tensors
from papers.betty.hypergradient.vectors import (
    Partial,
    Vector,
    added,
    local,
    norm,
    split,
)

#: A shift must be so many times the resolution of the weights: rounding then makes up some percent.
RESOLVED = 16


def darts(
    vector: Vector, curr: Lower, prevs: Sequence[Differentiable], upper: Upper
) -> list[Partial]:
    """``-d2C/(dprev dw) v`` by a central difference, with ``H^-1 = I``.

    Args:
        vector: shaped like ``curr.meta_trainable_parameters()``.
        curr: the problem whose optimum is differentiated; two passes over its last batch.
        prevs: the problems by whose parameters; the difference is taken for all at once.

    Returns:
        For each of ``prevs`` a list shaped like its parameters; error O(eps^2).

    The weights are restored bit for bit, unless ``darts_multitask`` asks for the nudge.
    """
    config = curr.config
    return central_difference(
        vector, curr, prevs, upper, config.darts_alpha, nudge=config.darts_multitask
    )


def central_difference(
    vector: Vector,
    curr: Lower,
    prevs: Sequence[Differentiable],
    upper: Upper,
    alpha: float,
    nudge: bool,
) -> list[Partial]:
    """Difference of the gradients by ``prevs`` at ``w - eps v`` and ``w + eps v`` over ``2 eps``.

    ``eps = alpha / |v|``. With ``nudge`` the weights stay at ``w - eps v``. The first gradient is
    that of minus the cost, so that what hooks on the parameters see sums to ``2 eps`` times the
    result.
    """
    distribution = upper.distribution
    weights = curr.meta_trainable_parameters()
    if curr.first_time("shift"):
        _warn_of_rounding(curr, weights, alpha)
    eps = alpha / (norm(vector) + 1e-15)
    kept = [weight.detach().clone() for weight in weights]
    parts = select_tensors(prevs, upper)
    flat = [tensor for part in parts for tensor in part]
    grads = []
    try:
        for times in (1, -2):
            _move(weights, vector, eps, times)
            total: Partial | None = None
            for batch in curr.micro_batches:
                sign = -1 if times == 1 else 1
                total = added(total, distribution.gradients(curr.replayed_loss(batch, sign), flat))
            grads.append(total or [])
    finally:
        if not nudge or len(grads) < 2:
            with torch.no_grad():
                torch._foreach_copy_(local(weights), local(kept))
    if nudge:
        distribution.average_values(weights)
    apart, (above, below) = 2 * eps, grads  # minus the gradient at w + eps v, that at w - eps v
    flat_result = [
        None if plus is None or minus is None else (minus + plus).div_(apart)
        for plus, minus in zip(above, below, strict=True)
    ]
    return split(flat_result, parts)


def _warn_of_rounding(curr: Lower, weights: Vector, alpha: float) -> None:
    """Warn of a shift that the forward pass rounds away: the difference would be noise, or 0."""
    length = float(norm([weight.detach() for weight in weights]))
    if alpha < RESOLVED * curr.resolution * length:
        curr.warn_once(
            f"a finite difference shifts its weights, of norm {length:.3g}, by {alpha:g}; precision"
            f" {curr.config.precision} resolves {curr.resolution * length:.2g} of them, so that the"
            " hypergradient is largely rounding; allowed: precision fp32 for this problem, or type"
            " neumann, cg or itd, which need no difference"
        )


@torch.no_grad()
def _move(weights: Vector, vector: Vector, eps: Tensor, times: int) -> None:
    """``weights += times eps vector``: on a CPU without a copy of the vector, which would be the
    dearest part; on a GPU without waiting for ``eps``."""
    if eps.device.type == "cpu":
        torch._foreach_add_(weights, vector, alpha=times * eps.item())
    else:
        torch._foreach_add_(weights, torch._foreach_mul(vector, eps), alpha=times)
