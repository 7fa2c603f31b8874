"""Kinds of problems."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from papers.betty.problems.implicit_problem import ImplicitProblem
from papers.betty.problems.problem import Problem

if TYPE_CHECKING:
    from papers.betty.problems.iterative_problem import IterativeProblem


def __getattr__(name: str) -> Any:
    if name == "IterativeProblem":  # seldom used: loaded where it is
        from papers.betty.problems.iterative_problem import IterativeProblem

        return IterativeProblem
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["ImplicitProblem", "IterativeProblem", "Problem"]
