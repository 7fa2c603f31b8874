"""Adadelta (Zeiler 2012)."""

from __future__ import annotations

import torch

from papers.betty.hypergradient.adaptation.registry import register
from papers.betty.hypergradient.adaptation.step import Step
from papers.betty.hypergradient.vectors import Vector


@register(torch.optim.Adadelta, flat_start=True, splits=True)
def adadelta(step: Step) -> Vector:
    """``u = lr sqrt(X_old + e) g / sqrt(E + e)``, ``E = rho E_old + (1 - rho) g^2``.

    ``D = lr sqrt((X_old + e) / (E + e)) (1 - (1 - rho) r)`` with ``r = g^2 / (E + e)``. The mean X
    of squared updates has been stepped too: ``X + rho e = (X_old + e) (rho + (1 - rho) r)``.
    """
    rho, eps = step["rho"], step["eps"]
    grads = step.gradient()
    squares = torch._foreach_add(step.state("square_avg"), eps)
    ratios = torch._foreach_mul(grads, grads)
    torch._foreach_div_(ratios, squares)
    torch._foreach_mul_(ratios, 1 - rho)
    slope = torch._foreach_add(step.state("acc_delta"), rho * eps)
    torch._foreach_div_(slope, torch._foreach_add(ratios, rho))
    torch._foreach_div_(slope, squares)
    torch._foreach_sqrt_(slope)
    torch._foreach_neg_(ratios)
    torch._foreach_add_(ratios, 1.0)
    torch._foreach_mul_(slope, ratios)
    torch._foreach_mul_(slope, step.sign * step["lr"])
    return list(slope)
