"""Kinds of problems."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader as lazy

from papers.betty.problems.implicit_problem import ImplicitProblem
from papers.betty.problems.problem import Problem

if TYPE_CHECKING:
    from papers.betty.problems.iterative_problem import HigherIterativeProblem, IterativeProblem

__getattr__, _, _ = lazy.attach(
    __name__,
    submod_attrs={"iterative_problem": ["HigherIterativeProblem", "IterativeProblem"]},
)


__all__ = ["HigherIterativeProblem", "ImplicitProblem", "IterativeProblem", "Problem"]
