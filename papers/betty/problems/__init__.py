"""Kinds of problems."""

from papers.betty.problems.implicit_problem import ImplicitProblem
from papers.betty.problems.iterative_problem import IterativeProblem
from papers.betty.problems.problem import Problem

#: The published package's name for recording by the library "higher", which is not needed here.
HigherIterativeProblem = IterativeProblem

__all__ = ["HigherIterativeProblem", "ImplicitProblem", "IterativeProblem", "Problem"]
