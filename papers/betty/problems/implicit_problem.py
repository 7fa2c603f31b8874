"""A problem whose optimum is differentiated implicitly."""

from __future__ import annotations

from papers.betty.problems.problem import Problem


class ImplicitProblem(Problem):
    """Uppers differentiate its optimum by the implicit function theorem, as ``type`` says.

    Memory does not grow with ``unroll_steps``: only the last batch is looked at again.
    """
