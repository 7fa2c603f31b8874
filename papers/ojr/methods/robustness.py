"""Accuracy under noise and under attacks, of a Euclidean length or of a size in each input."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from papers.ojr.methods.measures import accuracy_pct, batches
from papers.ojr.tasks.images import Part


def noise_accuracy_pct(network: nn.Module, part: Part, deviation: float, seed: int) -> float:
    """Under Gaussian noise of a standard deviation on every input."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(part.x.shape, generator=generator)
    return accuracy_pct(network, Part(part.x + deviation * noise, part.y))


def attack_accuracy_pct(network: nn.Module, part: Part, length: float, steps: int) -> float:
    """Under projected gradient ascent of the loss within a ball; one step is the fast gradient.

    Source: Madry et al. 2018, in the Euclidean norm; steps of 2.5 times the length over their
    number, from the image itself.
    """
    if length == 0:
        return accuracy_pct(network, part)
    return _attacked_pct(network, part, lambda x, y: _ascended(network, x, y, length, steps))


def sign_accuracy_pct(network: nn.Module, part: Part, size: float) -> float:
    """Under a step of ``size`` in every input, along the sign of the loss's gradient (FGSM).

    Source: Goodfellow et al. 2015.
    """
    return _attacked_pct(network, part, lambda x, y: size * _gradient(network, x, y).sign())


def _attacked_pct(
    network: nn.Module, part: Part, attack: Callable[[Tensor, Tensor], Tensor]
) -> float:
    """Of inputs that an attack, (inputs, labels) -> what it adds, has moved."""
    found = [x.detach().cpu() + attack(x, y).cpu() for x, y in batches(network, part)]
    return accuracy_pct(network, Part(torch.cat(found), part.y))


def _gradient(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Of the summed loss by the inputs (n, ...)."""
    x = x.detach().requires_grad_()
    loss = functional.cross_entropy(network(x), y, reduction="sum")
    return torch.autograd.grad(loss, x)[0]


def _ascended(network: nn.Module, x: Tensor, y: Tensor, length: float, steps: int) -> Tensor:
    """(n, ...) what an attack adds to each input."""
    moved = torch.zeros_like(x)
    stride = length if steps == 1 else 2.5 * length / steps
    for _ in range(steps):
        gradient = _gradient(network, x + moved, y)
        direction = functional.normalize(gradient.flatten(1), dim=1).view_as(x)
        moved = _within(moved + stride * direction, length)
    return moved


def _within(moved: Tensor, length: float) -> Tensor:
    norms = moved.flatten(1).norm(dim=1).view(-1, *[1] * (moved.ndim - 1))
    inside: Tensor = moved * (length / norms.clamp(min=length))
    return inside
