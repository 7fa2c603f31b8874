"""Adagrad (Duchi et al. 2011)."""

from __future__ import annotations

import torch

from papers.betty.hypergradient.adaptation.quotient import quotient_slope
from papers.betty.hypergradient.adaptation.registry import register
from papers.betty.hypergradient.adaptation.step import Step
from papers.betty.hypergradient.vectors import Vector


@register(torch.optim.Adagrad, flat_start=True, splits=True)
def adagrad(step: Step) -> Vector:
    """``u = lr_t g / Q``, ``Q = sqrt(G) + e``, ``G = G_old + g^2``."""
    grads = step.gradient()
    rate = step.sign * step["lr"] / (1 + (step.number - 1) * step["lr_decay"])
    return quotient_slope(grads, 1.0, step.state("sum"), grads, 1.0, step["eps"], rate)
