"""How an optimiser's update moves with the gradient: products with ``du/dg`` of its last step.

An optimiser turns a gradient g into an update u, ``w <- w - u``. :class:`Adaptation` watches the
steps of a torch optimiser and multiplies vectors by the transposed Jacobian of the last one: by a
diagonal D where the update is element-wise, by the whole Jacobian where it is not (Adafactor,
clipping by norm). :func:`register` adds a rule for an optimiser of one's own.

Source: Choe et al. 2023 (SAMA, NeurIPS), "algorithmic adaptation".
"""

from __future__ import annotations

from papers.betty.hypergradient.adaptation.recorder import Adaptation
from papers.betty.hypergradient.adaptation.registry import has_rule, register, supported
from papers.betty.hypergradient.adaptation.step import Diagonal, Step

__all__ = ["Adaptation", "Diagonal", "Step", "has_rule", "register", "supported"]
