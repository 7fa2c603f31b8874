"""SAMA: finite differences along the vector as the lower optimiser would scale it.

Source: Choe et al. 2023 (NeurIPS), algorithmic adaptation. ``D = du/dg`` of Adam with bias
correction: ``u = (lr / c1) m / Q`` with ``Q = sqrt(s / c2) + e``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from papers.betty.hypergradient.differentiable import Differentiable, Lower, Upper
from papers.betty.hypergradient.finite_difference import central_difference
from papers.betty.hypergradient.vectors import Partial, Vector


def sama(
    vector: Vector, curr: Lower, prevs: Sequence[Differentiable], upper: Upper
) -> list[Partial]:
    """``darts`` with ``v`` replaced by ``D v``; plain ``v`` for optimisers that are linear in g."""
    config = curr.config
    adapted = [
        part * update_by_gradient(curr.optimizer, weight, curr.last_grad(weight))
        for part, weight in zip(vector, curr.meta_trainable_parameters(), strict=True)
    ]
    return central_difference(
        adapted, curr, prevs, upper, config.sama_adam_alpha, nudge=config.sama_multitask
    )


def update_by_gradient(
    optimizer: torch.optim.Optimizer, weight: Tensor, grad: Tensor | None
) -> Tensor | float:
    """Diagonal ``du/dg`` of the last step for one parameter; 1 where it is a constant factor."""
    if not isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW) or grad is None:
        return 1.0
    state: dict[str, Any] = optimizer.state.get(weight, {})
    if not state:
        return 1.0
    group = next(g for g in optimizer.param_groups if any(p is weight for p in g["params"]))
    beta1, beta2 = group["betas"]
    step = float(state["step"])
    first, second = state["exp_avg"], state["exp_avg_sq"]
    correction1, correction2 = 1 - beta1**step, 1 - beta2**step
    scale = (second / correction2).sqrt() + group["eps"]
    slope = (1 - beta2) * first * grad / ((correction2 * second).sqrt() * scale**2)
    derivative = (group["lr"] / correction1) * ((1 - beta1) / scale - slope)
    return torch.where(second > 0, derivative, torch.zeros_like(derivative))
