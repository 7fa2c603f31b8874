"""What the methods with Hessian-vector products share: ``-M s`` with ``s`` near ``H^-1 v``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from papers.betty.hypergradient.differentiable import Differentiable, Lower, Upper, select_tensors
from papers.betty.hypergradient.vectors import (
    Partial,
    Vector,
    added,
    split,
    zeros_for_none,
)

#: Multiplies a vector by the Hessian of the cost at the present weights.
HessianProduct = Callable[[Vector], Vector]
#: (Hessian product, v) -> s near H^-1 v.
Solve = Callable[[HessianProduct, Vector], Vector]


def implicit_product(
    vector: Vector, curr: Lower, prevs: Sequence[Differentiable], upper: Upper, solve: Solve
) -> list[Partial]:
    """``-d2C/(dprev dw) s`` with ``s = solve(H, v)``: the implicit function theorem. Eq. 4.

    One pass over the last batch of ``curr`` with a graph of its gradient; a Hessian product is a
    backward pass through it. Of several micro-batches, which are there to save memory, only one
    graph is kept at a time: each product makes them anew.

    The sign is in what goes back, so that hooks on the parameters see the hypergradient's own.
    """
    weights = curr.meta_trainable_parameters()
    parts = select_tensors(prevs, upper)
    batches = curr.micro_batches

    def gradient_on(batch: Any) -> Sequence[Tensor | None]:
        loss = curr.replayed_loss(batch)
        return torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True)

    kept = gradient_on(batches[0]) if len(batches) == 1 else None

    def product_on(
        batch: Any, direction: Vector, by: Vector, last: bool
    ) -> Sequence[Tensor | None]:
        pairs = zip(gradient_on(batch) if kept is None else kept, direction, strict=True)
        # None: not read; without a graph: constant, as where the cost is linear in a weight.
        used = [(g, d) for g, d in pairs if g is not None and g.requires_grad]
        return torch.autograd.grad(
            [g for g, _ in used],
            by,
            grad_outputs=[d for _, d in used],
            retain_graph=kept is not None and not last,
            allow_unused=True,
        )

    def product(direction: Vector, by: Vector, last: bool = False) -> Partial:
        total: Partial = [None] * len(by)
        for batch in batches:
            total = added(total, product_on(batch, direction, by, last))
        return total

    def hessian(direction: Vector) -> Vector:
        return zeros_for_none(product(direction, weights), weights)

    against = [-part for part in solve(hessian, vector)]
    flat = product(against, [tensor for part in parts for tensor in part], last=True)
    return split(flat, parts)
