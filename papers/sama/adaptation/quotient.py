"""The derivative that all optimisers share which divide by the root of a mean of squares."""

from __future__ import annotations

import torch
from torch import Tensor

from papers.betty.hypergradient.vectors import Vector

Tensors = list[Tensor] | tuple[Tensor, ...]
#: Stands for zero where a zero is divided by it.
TINY = torch.finfo(torch.float32).tiny


def quotient_slope(
    numerator: Tensors,
    numerator_slope: float,
    radicand: Tensors,
    along: Tensors,
    weight: float,
    eps: float,
    factor: float,
    correction: float = 1.0,
) -> Vector:
    """``du/dg = factor (N' - N Q' / Q) / Q`` of ``u = factor N / Q``, ``Q = sqrt(r) / c + eps``.

    Args:
        numerator, numerator_slope: N and N'.
        radicand: r, not negative. Where it is zero no gradient has ever come, the mixed derivative
            by which D is multiplied is zero too, and so is D here, for ``1 / eps`` would make up
            all of a vector's norm.
        along, weight: ``r' / 2``, as a product.
        correction: c.
    """
    root = list(torch._foreach_sqrt(radicand))
    torch._foreach_clamp_min_(root, TINY)
    scale = torch._foreach_div(root, correction)
    torch._foreach_add_(scale, eps)
    slope = list(torch._foreach_mul(numerator, along))
    torch._foreach_div_(slope, root)
    torch._foreach_div_(slope, scale)
    torch._foreach_mul_(slope, -weight / correction)
    torch._foreach_add_(slope, numerator_slope)
    torch._foreach_div_(slope, scale)
    torch._foreach_mul_(slope, list(torch._foreach_sign(radicand)))
    torch._foreach_mul_(slope, factor)
    return slope
