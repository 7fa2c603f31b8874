"""Adam, AdamW, Adam with an L2 penalty, AMSGrad."""

from __future__ import annotations

import math

import torch

from papers.betty.hypergradient.adaptation.quotient import quotient_slope
from papers.betty.hypergradient.adaptation.registry import register
from papers.betty.hypergradient.adaptation.step import Step
from papers.betty.hypergradient.vectors import Vector


@register(torch.optim.Adam, torch.optim.AdamW, flat_start=True, splits=True)
def adam(step: Step) -> Vector:
    """``u = (lr / c1) m / Q``, ``Q = sqrt(s / c2) + e``, ``ci = 1 - bi^t``.

    ``D = (lr / c1) [(1 - b1) / Q - (1 - b2) m g / (sqrt(c2 s) Q^2)]``. AMSGrad divides by the root
    of the largest s so far, which depends on g where it is the present one. Decoupled decay does
    not depend on g.
    """
    beta1, beta2 = step.betas
    along = step.gradient()
    radicand = step.state("exp_avg_sq")
    if step.settings["amsgrad"]:
        present, radicand = radicand, step.state("max_exp_avg_sq")
        older = torch._foreach_sub(radicand, present)
        torch._foreach_sign_(older)  # 1 where an older s is the largest
        along = list(torch._foreach_sub(along, torch._foreach_mul(along, older)))
    return quotient_slope(
        step.state("exp_avg"),
        1 - beta1,
        radicand,
        along,
        1 - beta2,
        step["eps"],
        step.sign * step["lr"] / (1 - beta1**step.number),
        math.sqrt(1 - beta2**step.number),
    )
