"""AID-FD: the Hessian's inverse taken as the identity, the mixed derivative as a difference.

Source: Choe et al. 2023, Sec. 3.1; Liu et al. 2019 (DARTS), eq. 8.
"""

from __future__ import annotations

from collections.abc import Sequence

from papers.betty.hypergradient.differentiable import Differentiable, Lower, Upper, select_tensors
from papers.betty.hypergradient.shift import Shift, describe_rounding
from papers.betty.hypergradient.vectors import Partial, Vector, added, local, split


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
    parts = select_tensors(prevs, upper)
    flat = [tensor for part in parts for tensor in part]

    def gradient_at(side: int, shift: Shift) -> Partial:
        shift.to(side)
        total: Partial | None = None
        for batch in curr.micro_batches:
            loss = curr.replayed_loss(batch, -side)
            total = added(total, distribution.gradients(loss, flat))
        return total or []

    with Shift(weights, local(vector), alpha, nudge) as shift:
        above, below = (gradient_at(side, shift) for side in (1, -1))
    if nudge:
        distribution.average_values(weights)
    apart = 2 * shift.eps
    flat_result = [
        None if plus is None or minus is None else (minus + plus).div_(apart)
        for plus, minus in zip(above, below, strict=True)
    ]
    return split(flat_result, parts)


def _warn_of_rounding(curr: Lower, weights: Vector, alpha: float) -> None:
    trouble = describe_rounding(weights, alpha, curr.resolution)
    if trouble is not None:
        curr.warn_once(
            f"{trouble} (precision {curr.config.precision}); allowed: precision fp32 for this"
            " problem, or type neumann, cg or itd, which need no difference"
        )
