"""SGD: the update is linear in the gradient, and D a number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from papers.betty.hypergradient.adaptation.registry import register
from papers.betty.hypergradient.adaptation.step import Step


def is_first(
    params: Sequence[Tensor], states: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
) -> dict[str, Sequence[bool]]:
    """Whether a step makes the momentum buffer: dampening does not act on that one."""
    return {"first": [state.get("momentum_buffer") is None for state in states]}


@register(torch.optim.SGD, reads_gradient=False, remember=is_first)
def sgd(step: Step) -> list[float]:
    """``b = mu b_old + (1 - tau) g``, in the first step ``b = g``; ``u = lr b``.

    ``D = lr (1 - tau)``; with Nesterov, ``u = lr (g + mu b)``, ``lr (1 + mu (1 - tau))``.
    """
    lr, momentum = step.sign * step["lr"], step["momentum"]

    def slope(first: bool) -> float:
        through = 1.0 if first or not momentum else 1 - step["dampening"]
        return lr * (1 + momentum * through if step.settings["nesterov"] else through)

    return [slope(first) for first in step.remembered["first"]]
