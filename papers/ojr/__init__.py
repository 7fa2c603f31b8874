"""Orthogonal Jacobian regularisation: blocks of a network kept near isometries while it trains.

::

    with BlockRegularizer(network, ["layers.0", "layers.1"], weight=1.0, sampled=1) as regularizer:
        for x, y in batches:
            loss = cross_entropy(network(x), y) + regularizer.penalty()

The paper's text could not be had: the method is reconstructed, see the README.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from papers.ojr.isometric import MaxMin, constrain_orthogonal, delta_orthogonal_
    from papers.ojr.orthogonality import BlockRegularizer, JacobianFrobenius, JacobianOrthogonality
    from papers.ojr.products import exact_jacobian
    from papers.ojr.spectrum import (
        largest_singular_values,
        rms_singular_values,
        singular_values,
    )
    from papers.ojr.weight_penalties import weight_penalty

__getattr__, _, _ = lazy.attach(
    __name__,
    submod_attrs={
        "isometric": ["MaxMin", "constrain_orthogonal", "delta_orthogonal_"],
        "orthogonality": ["BlockRegularizer", "JacobianFrobenius", "JacobianOrthogonality"],
        "products": ["exact_jacobian"],
        "spectrum": ["largest_singular_values", "rms_singular_values", "singular_values"],
        "weight_penalties": ["weight_penalty"],
    },
)

__all__ = [
    "BlockRegularizer",
    "JacobianFrobenius",
    "JacobianOrthogonality",
    "MaxMin",
    "constrain_orthogonal",
    "delta_orthogonal_",
    "exact_jacobian",
    "largest_singular_values",
    "rms_singular_values",
    "singular_values",
    "weight_penalty",
]
