"""Hypergradients: best-response Jacobians, composed along every path of the dataflow graph.

``METHODS[config.type](vector, curr, prevs)`` multiplies a vector by the Jacobian of the optimum of
``curr`` by the parameters of each of ``prevs`` (eq. 3 of Choe et al. 2023), approximated as the
``type`` of ``curr`` says. A method's module is loaded when it is first used.
"""

from __future__ import annotations

from papers.betty.hypergradient.composition import hypergradient
from papers.betty.hypergradient.methods import METHODS, JacobianProduct


def __getattr__(name: str) -> JacobianProduct:
    if name in METHODS:
        return METHODS[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["METHODS", "hypergradient"]
