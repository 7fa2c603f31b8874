"""SAMA: meta learning by first-order passes alone (Choe et al., NeurIPS 2023).

::

    adaptation = Adaptation(optimizer)  # InputError if the optimiser has no rule
    sama = SAMA(net, weigher, adaptation)
    for step, (batch, clean) in enumerate(zip(noisy_batches, clean_batches), 1):
        losses = cross_entropy(net(batch.x), batch.y, reduction="none")
        seen = losses.detach()  # a constant of the base cost
        (weigher(seen) * losses).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 5 == 0:
            meta_optimizer.zero_grad()
            sama.backward(
                meta_cost=lambda: cross_entropy(net(clean.x), clean.y),
                base_cost=lambda: (weigher(seen) * losses_of(net, batch)).mean(),
            )
            meta_optimizer.step()
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from papers.sama.adaptation import Adaptation, Diagonal, Step, register, supported
    from papers.sama.hypergradient import hypergradient
    from papers.sama.meta_step import SAMA

__getattr__, _, _ = lazy.attach(
    __name__,
    submod_attrs={
        "adaptation": ["Adaptation", "Diagonal", "Step", "register", "supported"],
        "hypergradient": ["hypergradient"],
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
