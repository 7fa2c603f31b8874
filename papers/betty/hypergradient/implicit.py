"""What the methods with Hessian-vector products share: ``-M s`` with ``s`` near ``H^-1 v``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from papers.betty.hypergradient.vectors import (
    Partial,
    Vector,
    split,
    tensors_of,
    zeros_for_none,
)

if TYPE_CHECKING:
    from papers.betty.problems.problem import Problem

#: Multiplies a vector by the Hessian of the cost at the present weights.
HessianProduct = Callable[[Vector], Vector]
#: (Hessian product, v) -> s near H^-1 v.
Solve = Callable[[HessianProduct, Vector], Vector]


def implicit_product(
    vector: Vector, curr: Problem, prevs: Sequence[Problem], upper: Problem, solve: Solve
) -> list[Partial]:
    """``-d2C/(dprev dw) s`` with ``s = solve(H, v)``: the implicit function theorem. Eq. 4.

    One pass over the last batch of ``curr`` with a graph of its gradient; a Hessian product is a
    backward pass through it.
    """
    weights = curr.meta_trainable_parameters()
    parts = tensors_of(prevs, upper)
    loss = curr.replayed_loss()
    grad = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)
    gradient = [g for g in grad if g is not None]

    def where_used(direction: Vector) -> Vector:
        return [d for d, g in zip(direction, grad, strict=True) if g is not None]

    def hessian(direction: Vector) -> Vector:
        product = torch.autograd.grad(
            gradient,
            weights,
            grad_outputs=where_used(direction),
            retain_graph=True,
            allow_unused=True,
        )
        return zeros_for_none(product, weights)

    flat = torch.autograd.grad(
        gradient,
        [tensor for part in parts for tensor in part],
        grad_outputs=where_used(solve(hessian, vector)),
        allow_unused=True,
    )
    return split([None if part is None else -part for part in flat], parts)
