"""What a rule reads: one step that an optimiser took of some parameters of a group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from papers.betty.hypergradient.vectors import Vector, local

#: D of several tensors: shaped like them, a factor for each, or one factor of all.
Diagonal = Vector | list[float] | float


@dataclass(frozen=True)
class Step:
    """The last step of parameters of one group that have taken equally many steps.

    Tensors are the shards that this process holds, in single precision or better.

    Attributes:
        settings: hyper-parameters of the group as they were in the step.
        states: the optimiser's state of each parameter, after the step.
        raw: gradients as the optimiser was given them.
        remembered: what is lost in the step, by name, an entry a parameter.
        number: steps that the parameters have taken, this one included.
        span: which numbers, of one large tensor as a row of them; None for whole tensors. Tensors
            that the methods return, ``raw`` and ``remembered`` are of those alone.
    """

    settings: Mapping[str, Any]
    states: Sequence[Mapping[str, Any]]
    raw: Sequence[Tensor]
    remembered: Mapping[str, Sequence[Any]]
    number: float
    span: slice | None = None

    def state(self, name: str) -> Vector:
        """A part of the optimiser's state."""
        return precise(within(local([state[name] for state in self.states]), self.span))

    def gradient(self) -> Vector:
        """The gradient that enters the update: of the minimised cost, with its L2 penalty."""
        grads = precise(self.raw)
        if self.settings.get("maximize", False):
            grads = list(torch._foreach_neg(grads))
        if "decay" in self.remembered:
            grads = list(torch._foreach_add(grads, precise(self.remembered["decay"])))
        return grads

    def __getitem__(self, name: str) -> float:
        """A hyper-parameter that is a number (or a tensor of one)."""
        return float(self.settings[name])

    @property
    def betas(self) -> tuple[float, float]:
        """Decay rates of the moments."""
        first, second = self.settings["betas"]
        return float(first), float(second)

    @property
    def sign(self) -> float:
        """Derivative of :meth:`gradient` by the gradient that the optimiser was given."""
        return -1.0 if self.settings.get("maximize", False) else 1.0


def precise(tensors: Sequence[Tensor]) -> Vector:
    """Half-precision tensors in single precision, others as they are."""
    if {tensor.dtype for tensor in tensors} <= {torch.float32, torch.float64}:
        return list(tensors)
    return [tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors]


def within(tensors: Sequence[Tensor], span: slice | None) -> Vector:
    """Some of each tensor's numbers, in the order of its elements; all in their shape for None."""
    return list(tensors) if span is None else [tensor.reshape(-1)[span] for tensor in tensors]


def numbers(values: Sequence[Any]) -> list[float]:
    """Numbers, or tensors of one number, as floats."""
    if values and all(isinstance(value, Tensor) for value in values):
        return torch.stack(list(values)).flatten().tolist()  # type: ignore[no-any-return]
    return [float(value) for value in values]
