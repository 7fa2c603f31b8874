"""Accuracy under noise and under attacks of a given Euclidean length."""

from __future__ import annotations

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
    found = [
        x.detach().cpu() + _ascended(network, x, y, length, steps).cpu()
        for x, y in batches(network, part)
    ]
    return accuracy_pct(network, Part(torch.cat(found), part.y))


def _ascended(network: nn.Module, x: Tensor, y: Tensor, length: float, steps: int) -> Tensor:
    """(n, ...) what an attack adds to each input."""
    moved = torch.zeros_like(x)
    stride = length if steps == 1 else 2.5 * length / steps
    for _ in range(steps):
        attacked = (x + moved).requires_grad_()
        loss = functional.cross_entropy(network(attacked), y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, attacked)
        direction = functional.normalize(gradient.flatten(1), dim=1).view_as(x)
        moved = _within(moved + stride * direction, length)
    return moved


def _within(moved: Tensor, length: float) -> Tensor:
    norms = moved.flatten(1).norm(dim=1).view(-1, *[1] * (moved.ndim - 1))
    inside: Tensor = moved * (length / norms.clamp(min=length))
    return inside
