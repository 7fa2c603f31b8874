"""Steps that are timed side by side: the kernel classifier, a network, a loop over keys, KeOps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from papers.okgan import Gaussian, KernelDiscriminator, expand
from papers.okgan.discriminator import Discriminator
from papers.okgan.methods.generation import Generation, GeneratorOptimizer
from papers.okgan.neural import NeuralDiscriminator
from papers.okgan.tasks.networks import plane_discriminator, plane_generator

#: Sum over keys: (x (n, d), keys (M, d), weights (M,)) -> (n,).
Sum = Callable[[Tensor, Tensor, Tensor], Tensor]


def kernel_discriminator(budget: int, features: int = 2, batch_size: int = 64) -> Discriminator:
    """As on the ring, one pass over an update's points."""
    return KernelDiscriminator(
        (features,), Gaussian(1.0 / features), budget, "hinge", passes=1, batch_size=batch_size
    )


def network_discriminator(width: int, layers: int) -> Discriminator:
    """That of the GAN beside it."""
    net = plane_discriminator(width, layers)
    adam = partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.999), fused=True)
    return NeuralDiscriminator(net, adam)


def training_step(
    discriminator: Discriminator, batch: int = 128, features: int = 2, generator_steps: int = 1
) -> Callable[[], object]:
    """An iteration of the loop: an update, and steps of a generator of width 64."""
    torch.manual_seed(0)
    net = plane_generator(64, 3)
    if features != 2:
        net[-1] = nn.Linear(64, features)
    training = Generation(
        net,
        lambda count: torch.randn(count, 2),
        discriminator,
        GeneratorOptimizer(),
        10**9,
        generator_steps,
    )
    real = torch.randn(batch, features)
    return lambda: training.iterate(real)


def fused_sum(gamma: float) -> Sum:
    """Ours."""
    return partial(expand, Gaussian(gamma))


def naive_sum(gamma: float) -> Sum:
    """A loop over keys in Python, differentiated by autograd."""

    def total(x: Tensor, keys: Tensor, weights: Tensor) -> Tensor:
        found = torch.zeros(len(x))
        for key, weight in zip(keys, weights, strict=True):
            found = found + weight * torch.exp(-gamma * (x - key).square().sum(1))
        return found

    return total


def autograd_sum(gamma: float) -> Sum:
    """One table of kernel values, differentiated by autograd."""

    def total(x: Tensor, keys: Tensor, weights: Tensor) -> Tensor:
        return torch.exp(-gamma * torch.cdist(x, keys).square()) @ weights

    return total


def keops_sum(gamma: float, features: int) -> Sum | None:
    """KeOps' reduction, which holds no table; None where it is not installed."""
    if find_spec("pykeops") is None:
        return None
    from pykeops.torch import Genred

    reduction = Genred(
        "Exp(-G * SqDist(X, Y)) * W",
        ["G = Pm(1)", f"X = Vi({features})", f"Y = Vj({features})", "W = Vj(1)"],
        reduction_op="Sum",
        axis=1,
    )
    scale = torch.tensor([gamma])

    def total(x: Tensor, keys: Tensor, weights: Tensor) -> Tensor:
        found: Tensor = reduction(
            scale, x.contiguous(), keys.contiguous(), weights[:, None].contiguous(), backend="CPU"
        )
        return found[:, 0]

    return total


def value_and_gradient(total: Sum, x: Tensor, keys: Tensor, weights: Tensor) -> Tensor:
    """The gradient by x of the sum of values (n, d): what a generator's step asks for."""
    x = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(total(x, keys, weights).sum(), x)
    return found
