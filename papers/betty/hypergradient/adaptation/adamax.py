"""Adamax (Kingma and Ba 2015, Sec. 7.1)."""

from __future__ import annotations

import torch

from papers.betty.hypergradient.adaptation.registry import register
from papers.betty.hypergradient.adaptation.step import Step
from papers.betty.hypergradient.vectors import Vector


@register(torch.optim.Adamax, flat_start=True, splits=True)
def adamax(step: Step) -> Vector:
    """``u = (lr / c1) m / n``, ``n = max(b2 n_old, |g| + e)``.

    ``D = (lr / c1) [(1 - b1) - m sign(g) / n] / n`` where the present g is the largest, without the
    second term elsewhere.
    """
    beta1, _ = step.betas
    grads, largest = step.gradient(), step.state("exp_inf")
    lengths = torch._foreach_abs(grads)
    torch._foreach_add_(lengths, step["eps"])
    # The state was rounded to the parameters' precision; it is |g| + e up to that, or above it.
    rounding = 4 * max(torch.finfo(grad.dtype).eps for grad in step.raw)
    torch._foreach_sub_(lengths, torch._foreach_mul(largest, 1 - rounding))
    torch._foreach_sign_(lengths)
    torch._foreach_clamp_min_(lengths, 0.0)
    slope = torch._foreach_mul(step.state("exp_avg"), torch._foreach_sign(grads))
    torch._foreach_mul_(slope, lengths)
    torch._foreach_div_(slope, largest)
    torch._foreach_neg_(slope)
    torch._foreach_add_(slope, 1 - beta1)
    torch._foreach_div_(slope, largest)
    torch._foreach_mul_(slope, step.sign * step["lr"] / (1 - beta1**step.number))
    return list(slope)
