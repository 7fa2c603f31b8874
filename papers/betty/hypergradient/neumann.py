"""AID-NMN: the inverse Hessian as a truncated Neumann series. Source: Lorraine et al. 2020."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from papers.betty.hypergradient.differentiable import Differentiable, Lower, Upper
from papers.betty.hypergradient.implicit import HessianProduct, implicit_product
from papers.betty.hypergradient.vectors import Partial, Vector


def neumann(
    vector: Vector, curr: Lower, prevs: Sequence[Differentiable], upper: Upper
) -> list[Partial]:
    """``-M s``, ``s = a sum_{k=0}^K (I - a H)^k v`` with K ``neumann_iterations``, a ``_alpha``.

    Converges for ``0 < a < 2 / lambda_max(H)``, with the error's factor ``|1 - a lambda|`` a term.
    """
    config = curr.config

    def solve(hessian: HessianProduct, right: Vector) -> Vector:
        term, total = list(right), list(right)
        for _ in range(config.neumann_iterations):
            step = torch._foreach_mul(hessian(term), config.neumann_alpha)
            term = list(torch._foreach_sub(term, step))
            total = list(torch._foreach_add(total, term))
        return list(torch._foreach_mul(total, config.neumann_alpha))

    return implicit_product(vector, curr, prevs, upper, solve)
