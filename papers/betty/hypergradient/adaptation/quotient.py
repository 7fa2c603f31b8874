"""The derivative that all optimisers share which divide by the root of a mean of squares."""

from __future__ import annotations

import torch
from torch import Tensor

from papers.betty.hypergradient.vectors import Vector

Tensors = list[Tensor] | tuple[Tensor, ...]
#: Stands for zero where zero is divided by it.
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
    # With R = c Q: factor c (N' sqrt(r) - weight N along / R) / (sqrt(r) R), so that a zero r gives
    # 0 / TINY. As few passes over memory as there can be: on a CPU that is what it costs.
    root = list(torch._foreach_sqrt(radicand))
    divisor = list(torch._foreach_add(root, correction * eps))
    slope = list(torch._foreach_mul(root, factor * correction * numerator_slope))
    products = torch._foreach_mul(numerator, along)
    torch._foreach_addcdiv_(slope, products, divisor, value=-factor * correction * weight)
    del products
    torch._foreach_mul_(root, divisor)
    torch._foreach_add_(root, TINY)
    torch._foreach_div_(slope, root)
    return slope
