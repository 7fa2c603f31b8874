"""SAMA: meta learning by first-order passes alone (Choe et al., NeurIPS 2023).

::

    adaptation = Adaptation(optimizer)  # InputError if the optimiser has no rule
    sama = SAMA(net, weigher, adaptation)
    for number, (x, y) in enumerate(noisy_batches, 1):
        seen = losses(net, x, y).detach()  # of the weight network a constant

        def base_cost():
            return (weigher(seen) * losses(net, x, y)).mean()

        base_cost().backward()
        optimizer.step()
        optimizer.zero_grad()
        if number % 5 == 0:
            meta_optimizer.zero_grad()
            sama.backward(lambda: losses(net, *next(clean_batches)).mean(), base_cost)
            meta_optimizer.step()
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from papers.sama.adaptation import Adaptation, Diagonal, Step, register, supported
    from papers.sama.meta_step import SAMA
    from papers.sama.three_passes import hypergradient

__getattr__, _, _ = lazy.attach(
    __name__,
    submod_attrs={
        "adaptation": ["Adaptation", "Diagonal", "Step", "register", "supported"],
        "three_passes": ["hypergradient"],
        "meta_step": ["SAMA"],
    },
)

__all__ = [
    "SAMA",
    "Adaptation",
    "Diagonal",
    "Step",
    "hypergradient",
    "register",
    "supported",
]
