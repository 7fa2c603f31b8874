"""Accuracy under noise and under attacks of a given Euclidean length."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from papers.ojr.methods.training import accuracy_pct
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
    moved = torch.zeros_like(part.x)
    stride = length if steps == 1 else 2.5 * length / steps
    for _ in range(steps):
        x = (part.x + moved).requires_grad_()
        loss = functional.cross_entropy(network(x), part.y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
        moved = _within(moved + stride * functional.normalize(gradient, dim=1), length)
    return accuracy_pct(network, Part(part.x + moved, part.y))


def _within(moved: Tensor, length: float) -> Tensor:
    norms = moved.norm(dim=1, keepdim=True)
    inside: Tensor = moved * (length / norms.clamp(min=length))
    return inside
