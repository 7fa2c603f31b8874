"""Adafactor (Shazeer and Stern 2018) as in torch: the update is not element-wise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from papers.betty.hypergradient.adaptation.registry import register
from papers.betty.hypergradient.adaptation.step import Step
from papers.betty.hypergradient.vectors import Vector


def parameter_scale(
    params: Sequence[Tensor], states: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
) -> dict[str, Sequence[Tensor]]:
    """Root mean square of each parameter, at least ``eps2``: it scales the update."""
    norms = torch._foreach_norm(list(params))
    roots = torch._foreach_div(norms, [param.numel() ** 0.5 for param in params])
    return {"scale": torch._foreach_clamp_min(roots, settings["eps"][1])}


@register(torch.optim.Adafactor, diagonal=False, l2=False, remember=parameter_scale)
def adafactor(step: Step, vector: Vector) -> Vector:
    """``u = a U / max(1, rms(U) / d)``, ``U = g / sqrt(V)``, ``V = R C / mean(R)``.

    R and C are running means of the rows' and columns' mean squares, V itself is one for vectors.
    So each element of g moves all updates of its row and column, and, where ``rms(U) > d``, of the
    tensor. Below is the transposed Jacobian, from the state after the step alone.
    """
    newest = step.number ** step["beta2_decay"]  # weight of the present squares
    rate = step.sign * min(step["lr"], step.number**-0.5)
    found = []
    for weight, grad, raw, state, scale in zip(
        vector, step.gradient(), step.raw, step.states, step.remembered["scale"], strict=True
    ):
        eps = step.settings["eps"][0]
        eps = torch.finfo(raw.dtype).eps if eps is None else eps
        moments = [state[name] for name in ("row_var", "col_var", "variance") if name in state]
        moments = [moment.to(grad.dtype) for moment in moments]
        back = _back(weight * rate * scale, grad, moments, newest, step["d"], eps)
        found.append(back)
    return found


def _back(
    by_update: Tensor, grad: Tensor, moments: Sequence[Tensor], newest: float, d: float, eps: float
) -> Tensor:
    """Pull a derivative by the clipped U back to the gradient."""
    rows, columns = moments if len(moments) == 2 else (moments[0], None)
    mean = rows.mean(dim=-2, keepdim=True) if columns is not None else None
    variance = rows if columns is None or mean is None else rows @ columns / mean.clamp(min=eps)
    inverse = variance.clamp(min=eps * eps).rsqrt()
    update = grad * inverse
    length = update.norm() / (update.numel() ** 0.5 * d)
    if length > 1:  # U / length: what lies along U is lost
        along = (update * by_update).sum() / update.square().sum()
        by_update = (by_update - along * update) / length
    direct = by_update * inverse
    by_variance = -0.5 * direct * update * inverse * (variance > eps * eps)
    if columns is None or mean is None:
        return direct + 2 * newest * grad * by_variance
    floored = mean.clamp(min=eps)
    by_rows = (by_variance * columns).sum(-1, keepdim=True) / floored
    shrunk = (by_rows * rows).sum(-2, keepdim=True) / floored * (mean > eps)
    by_rows = by_rows - shrunk / rows.shape[-2]
    by_columns = (by_variance * rows).sum(-2, keepdim=True) / floored
    by_square = by_rows / grad.shape[-1] + by_columns / grad.shape[-2]
    return direct + 2 * newest * grad * by_square
