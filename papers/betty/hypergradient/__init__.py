"""Hypergradients: best-response Jacobians, composed along every path of the dataflow graph.

``METHODS[config.type](vector, curr, prevs)`` multiplies a vector by the Jacobian of the optimum of
``curr`` by the parameters of each of ``prevs`` (eq. 3 of Choe et al. 2023), approximated as the
``type`` of ``curr`` says.
"""

from __future__ import annotations

from papers.betty.hypergradient.composition import METHODS, hypergradient
from papers.betty.hypergradient.conjugate_gradient import cg
from papers.betty.hypergradient.finite_difference import darts
from papers.betty.hypergradient.neumann import neumann
from papers.betty.hypergradient.reinforce import reinforce
from papers.betty.hypergradient.sama import sama
from papers.betty.hypergradient.unrolled import itd

__all__ = ["METHODS", "cg", "darts", "hypergradient", "itd", "neumann", "reinforce", "sama"]
