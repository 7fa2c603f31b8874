"""The example's library: a network that others may import, without any experiment."""

from __future__ import annotations

from torch import nn


def perceptron(inputs: int, width: int, classes: int) -> nn.Sequential:
    """A network with one hidden layer of ``width`` units: (n, inputs) to (n, classes)."""
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, classes))
