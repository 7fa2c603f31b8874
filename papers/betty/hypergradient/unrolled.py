"""ITD-RMAD: reverse mode through the optimiser steps that led to the present weights.

Source: Maclaurin et al. 2015; Franceschi et al. 2017. Memory grows with the steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from common.errors import InputError
from papers.betty.hypergradient.vectors import Partial, Vector

if TYPE_CHECKING:
    from papers.betty.problems.problem import Problem


def itd(vector: Vector, curr: Problem, prevs: Sequence[Problem], _upper: Problem) -> list[Partial]:
    """Product with the exact Jacobian of the weights that ``unroll_steps`` steps led to.

    Raises:
        InputError: ``curr`` is no IterativeProblem, so its steps were not recorded.
    """
    from papers.betty.problems.iterative_problem import IterativeProblem

    if not isinstance(curr, IterativeProblem):
        raise InputError(
            f"problem {curr.name!r}: type 'itd' needs an IterativeProblem, got"
            f" {type(curr).__name__}"
        )
    return curr.unrolled_product(vector, prevs)
