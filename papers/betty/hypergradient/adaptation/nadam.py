"""NAdam (Dozat 2016), with the momentum's own schedule."""

from __future__ import annotations

import math

import torch

from papers.betty.hypergradient.adaptation.quotient import quotient_slope
from papers.betty.hypergradient.adaptation.registry import register
from papers.betty.hypergradient.adaptation.step import Step
from papers.betty.hypergradient.vectors import Vector


@register(torch.optim.NAdam, flat_start=True)
def nadam(step: Step) -> Vector:
    """``u = lr N / Q``, ``N = a g + b m``, ``Q = sqrt(s / c2) + e``; ``N' = a + b (1 - b1)``.

    ``a = (1 - mu_t) / (1 - P_t)``, ``b = mu_{t+1} / (1 - P_{t+1})``, ``P_t = mu_1 ... mu_t``. All
    parameters of a step have the same P unless a momentum was changed while some had no gradient;
    then that of the first is taken.
    """
    beta1, beta2 = step.betas

    def momentum(number: float) -> float:
        return beta1 * (1 - 0.5 * math.pow(0.96, number * step["momentum_decay"]))

    now, following = momentum(step.number), momentum(step.number + 1)
    product = float(step.states[0]["mu_product"])
    own, mean = (1 - now) / (1 - product), following / (1 - product * following)
    grads = step.gradient()
    numerator = torch._foreach_mul(grads, own)
    torch._foreach_add_(numerator, step.state("exp_avg"), alpha=mean)
    return quotient_slope(
        numerator,
        own + mean * (1 - beta1),
        step.state("exp_avg_sq"),
        grads,
        1 - beta2,
        step["eps"],
        step.sign * step["lr"],
        math.sqrt(1 - beta2**step.number),
    )
