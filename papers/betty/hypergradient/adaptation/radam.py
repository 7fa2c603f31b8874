"""RAdam (Liu et al. 2020): momentum until the variance of the second moment is tractable."""

from __future__ import annotations

import math

import torch

from papers.betty.hypergradient.adaptation.quotient import quotient_slope
from papers.betty.hypergradient.adaptation.registry import register
from papers.betty.hypergradient.adaptation.step import Diagonal, Step


@register(torch.optim.RAdam, splits=True)
def radam(step: Step) -> Diagonal:
    """First phase, ``rho <= 5``: ``u = (lr / c1) m``, ``D = (lr / c1) (1 - b1)``.

    Second: ``u = (lr / c1) r sqrt(c2) m / Q``, ``Q = sqrt(s) + e``, with the rectification r.
    """
    number = step.number
    beta1, beta2 = step.betas
    correction = 1 - math.pow(beta2, number)
    rate = step.sign * step["lr"] / (1 - math.pow(beta1, number))
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * number * (1 - correction) / correction
    if length <= 5:
        return rate * (1 - beta1)
    rectified = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return quotient_slope(
        step.state("exp_avg"),
        1 - beta1,
        step.state("exp_avg_sq"),
        step.gradient(),
        1 - beta2,
        step["eps"],
        rate * math.sqrt(rectified * correction),
    )
