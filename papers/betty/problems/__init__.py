"""Kinds of problems."""

from papers.betty.problems.implicit_problem import ImplicitProblem
from papers.betty.problems.iterative_problem import IterativeProblem
from papers.betty.problems.problem import Problem

__all__ = ["ImplicitProblem", "IterativeProblem", "Problem"]
