"""AID-CG: the inverse Hessian by conjugate gradients. Source: Rajeswaran et al. 2019."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from papers.betty.hypergradient.differentiable import Differentiable, Lower, Upper
from papers.betty.hypergradient.implicit import HessianProduct, implicit_product
from papers.betty.hypergradient.vectors import Partial, Vector, dot


def cg(vector: Vector, curr: Lower, prevs: Sequence[Differentiable], upper: Upper) -> list[Partial]:
    """``-M s`` with ``s`` after ``cg_iterations`` steps on ``(H + damping I) s = v``.

    Stops early where the residual vanishes or the curvature along the direction is not positive:
    the Hessian of a network may be indefinite, and a step there would lead away. ``cg_alpha``, a
    factor of the system and of its solution, cancels.
    """
    config = curr.config

    def solve(hessian: HessianProduct, right: Vector) -> Vector:
        solution: Vector = [torch.zeros_like(part) for part in right]
        residual, direction = list(right), list(right)
        squared = dot(residual, residual)
        for step in range(config.cg_iterations):
            product = hessian(direction)
            if config.cg_damping:
                damped = torch._foreach_mul(direction, config.cg_damping)
                product = list(torch._foreach_add(product, damped))
            curvature = dot(direction, product)
            if not bool((curvature > 0) & (squared > 0)):
                if step == 0 and bool(squared > 0):
                    _warn(curr, upper, float(curvature / squared))
                break
            length = squared / curvature
            solution = _along(solution, direction, length)
            residual = _along(residual, product, -length)
            before, squared = squared, dot(residual, residual)
            direction = _along(residual, direction, squared / before)
        return solution

    return implicit_product(vector, curr, prevs, upper, solve)


def _warn(curr: Lower, upper: Upper, curvature: float) -> None:
    """Warn that the first direction already has no positive curvature: the solution is 0."""
    curr.warn_once(
        "its Hessian is not positive definite: the curvature along the derivative of"
        f" {upper.name!r} is {curvature:.3g}, so type 'cg' gives {upper.name!r} no hypergradient;"
        f" allowed: a cg_damping above {curr.config.cg_damping - curvature:.3g}, or another type",
        about="curvature",
    )


def _along(start: Vector, direction: Vector, length: torch.Tensor) -> Vector:
    """``start + length * direction``."""
    return list(torch._foreach_add(start, torch._foreach_mul(direction, length)))
