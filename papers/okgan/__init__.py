"""OKGAN: GANs whose discriminator is an online kernel classifier (Youn et al. 2020).

::

    discriminator = KernelDiscriminator((2,), Gaussian(gamma=1.0))
    for real in batches:
        discriminator.update(real, lambda: generator(noise()).detach())
        optimizer.zero_grad()
        discriminator.generator_loss(generator(noise()), real).backward()
        optimizer.step()
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import lazy_loader as lazy

if TYPE_CHECKING:
    from papers.okgan.discriminator import Discriminator, KernelDiscriminator
    from papers.okgan.encoded import EncodedKernelDiscriminator
    from papers.okgan.kernels import (
        Gaussian,
        Kernel,
        Linear,
        MixedGaussian,
        MixedRationalQuadratic,
        Polynomial,
        RationalQuadratic,
        expand,
    )

__getattr__, _, _ = lazy.attach(
    __name__,
    submod_attrs={
        "discriminator": ["Discriminator", "KernelDiscriminator"],
        "encoded": ["EncodedKernelDiscriminator"],
        "kernels": [
            "Gaussian",
            "Kernel",
            "Linear",
            "MixedGaussian",
            "MixedRationalQuadratic",
            "Polynomial",
            "RationalQuadratic",
            "expand",
        ],
    },
)

__all__ = [
    "Discriminator",
    "EncodedKernelDiscriminator",
    "Gaussian",
    "Kernel",
    "KernelDiscriminator",
    "Linear",
    "MixedGaussian",
    "MixedRationalQuadratic",
    "Polynomial",
    "RationalQuadratic",
    "expand",
]
