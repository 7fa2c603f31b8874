"""Losses of a classifier's margin ``u = y f(x)``, and their slopes."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

LossName = Literal["logistic", "hinge"]


def loss(name: LossName, margin: Tensor) -> Tensor:
    """``log(1 + exp(-u))`` or ``max(0, 1 - u)``."""
    return functional.softplus(-margin) if name == "logistic" else functional.relu(1 - margin)


def pull(name: LossName, margin: Tensor) -> Tensor:
    """Minus the derivative by u: ``sigmoid(-u)``, or 1 where ``u <= 1``."""
    return torch.sigmoid(-margin) if name == "logistic" else (margin <= 1).to(margin.dtype)
