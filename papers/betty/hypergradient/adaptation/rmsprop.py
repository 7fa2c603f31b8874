"""RMSprop (Tieleman and Hinton 2012), also centred and with momentum."""

from __future__ import annotations

import torch

from papers.betty.hypergradient.adaptation.quotient import quotient_slope
from papers.betty.hypergradient.adaptation.registry import register
from papers.betty.hypergradient.adaptation.step import Step
from papers.betty.hypergradient.vectors import Vector


@register(torch.optim.RMSprop, flat_start=True, splits=True)
def rmsprop(step: Step) -> Vector:
    """``u = lr g / Q``, ``Q = sqrt(s) + e``; centred ``Q = sqrt(s - gbar^2) + e``.

    The half derivative of the radicand is ``(1 - a) g``, centred ``(1 - a) (g - gbar)``. Momentum
    adds ``g / Q`` to its buffer, so D is the same.
    """
    grads = along = step.gradient()
    radicand = step.state("square_avg")
    if step.settings["centered"]:
        mean = step.state("grad_avg")
        radicand = list(torch._foreach_addcmul(radicand, mean, mean, value=-1))
        along = list(torch._foreach_sub(grads, mean))
    weight, rate = 1 - step["alpha"], step.sign * step["lr"]
    return quotient_slope(grads, 1.0, radicand, along, weight, step["eps"], rate)
