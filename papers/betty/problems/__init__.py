"""Kinds of problems."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from papers.betty.problems.implicit_problem import ImplicitProblem
from papers.betty.problems.problem import Problem

if TYPE_CHECKING:
    from papers.betty.problems.iterative_problem import IterativeProblem

    HigherIterativeProblem = IterativeProblem


def __getattr__(name: str) -> Any:
    # Seldom used: loaded where it is. The second is the published package's name for recording by
    # the library "higher", which is not needed here.
    if name in ("IterativeProblem", "HigherIterativeProblem"):
        from papers.betty.problems.iterative_problem import IterativeProblem

        return IterativeProblem
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["HigherIterativeProblem", "ImplicitProblem", "IterativeProblem", "Problem"]
