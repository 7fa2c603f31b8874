"""ITD-RMAD: reverse mode through the optimiser steps that led to the present weights.

Source: Maclaurin et al. 2015; Franceschi et al. 2017. Memory grows with the steps.
"""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import InputError
from papers.betty.hypergradient.differentiable import Differentiable, Lower, Unrolled, Upper
from papers.betty.hypergradient.vectors import Partial, Vector


def itd(
    vector: Vector, curr: Lower, prevs: Sequence[Differentiable], _upper: Upper
) -> list[Partial]:
    """Product with the exact Jacobian of the weights that ``unroll_steps`` steps led to.

    Raises:
        InputError: ``curr`` is no IterativeProblem, so its steps were not recorded.
    """
    if not isinstance(curr, Unrolled):
        raise InputError(
            f"problem {curr.name!r}: type 'itd' needs an IterativeProblem, got"
            f" {type(curr).__name__}"
        )
    return curr.unrolled_product(vector, prevs)
