"""The derivative of an optimiser's step, which Betty's ``Config(type="sama")`` takes, too."""

from papers.betty.hypergradient.adaptation import (
    Adaptation,
    Diagonal,
    Step,
    has_rule,
    register,
    supported,
)

__all__ = ["Adaptation", "Diagonal", "Step", "has_rule", "register", "supported"]
