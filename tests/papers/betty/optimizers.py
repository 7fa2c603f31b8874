"""Optimisers of small random tensors, and the derivative of their own step in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import (
    SGD,
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
)

from papers.sama import Adaptation

SHAPES = ((3, 4), (5,), (2, 3, 2))
Kind = tuple[type[Optimizer], dict[str, Any]]

#: Large eps, so that it shows; large rates of decay, so that few steps have made a state.
KINDS: dict[str, Kind] = {
    "sgd": (SGD, {"weight_decay": 0.1}),
    "momentum": (SGD, {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    "nesterov": (SGD, {"momentum": 0.9, "nesterov": True}),
    "adam": (Adam, {"betas": (0.8, 0.9), "eps": 1e-2}),
    "adam with L2": (Adam, {"betas": (0.8, 0.9), "weight_decay": 0.5}),
    "adam, defaults": (Adam, {}),
    "adamw": (AdamW, {"betas": (0.8, 0.9), "weight_decay": 0.5}),
    "amsgrad": (Adam, {"betas": (0.8, 0.6), "amsgrad": True, "weight_decay": 0.1}),
    "nadam": (NAdam, {"betas": (0.8, 0.9), "weight_decay": 0.1}),
    "nadam, decoupled": (
        NAdam,
        {"betas": (0.8, 0.9), "weight_decay": 0.1, "decoupled_weight_decay": True},
    ),
    "radam, first phase": (RAdam, {"weight_decay": 0.1}),
    "radam, second phase": (RAdam, {"betas": (0.8, 0.95), "weight_decay": 0.1}),
    "adamax": (Adamax, {"betas": (0.8, 0.9), "weight_decay": 0.1}),
    "rmsprop": (RMSprop, {"alpha": 0.8, "weight_decay": 0.1}),
    "rmsprop, centred": (RMSprop, {"alpha": 0.8, "centered": True, "momentum": 0.9}),
    "adagrad": (Adagrad, {"lr_decay": 0.1, "weight_decay": 0.1, "eps": 1e-2}),
    "adadelta": (Adadelta, {"rho": 0.8, "weight_decay": 0.1, "eps": 1e-3}),
    "adafactor": (Adafactor, {"weight_decay": 0.1}),
    "adafactor, not clipped": (Adafactor, {"d": 100.0}),
}


class Stepped:
    """An optimiser before its step number ``number``, with the gradients of that step.

    Two groups with different rates and decays; ``clip`` clips gradients before each step.
    """

    def __init__(
        self,
        kind: Kind,
        number: int,
        clip: Callable[[Adaptation | None, Sequence[Tensor]], Any] = lambda *_: None,
        dtype: torch.dtype = torch.float64,
        **options: Any,
    ) -> None:
        generator = torch.Generator().manual_seed(number)

        def normal() -> list[Tensor]:
            drawn = [torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES]
            return [tensor.to(dtype) for tensor in drawn]

        cls, settings = kind
        self.make: Callable[[Any], Optimizer] = lambda groups: cls(groups, **(settings | options))
        self.params = [param.requires_grad_() for param in normal()]
        self.optimizer = self.make(self._groups(self.params))
        self.clip = clip
        self.adaptation = Adaptation(self.optimizer, self.params)
        for _ in range(number - 1):
            self._step(self.params, normal(), self.optimizer, self.adaptation)
        self.grads, self.vector = normal(), normal()

    @staticmethod
    def _groups(params: Sequence[Tensor]) -> list[dict[str, Any]]:
        first, *rest = params
        return [{"params": rest, "lr": 0.02}, {"params": [first], "lr": 0.1}]

    def _step(
        self,
        params: Sequence[Tensor],
        grads: Sequence[Tensor],
        optimizer: Optimizer,
        adaptation: Adaptation | None = None,
    ) -> None:
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad.clone()
        self.clip(adaptation, params)
        optimizer.step()
        optimizer.zero_grad()

    def product(self) -> list[Tensor]:
        """The library's ``(du/dg)' v``, after the real step."""
        self._step(self.params, self.grads, self.optimizer, self.adaptation)
        return self.adaptation(self.vector)

    def update(self, grads: Sequence[Tensor], **options: Any) -> list[Tensor]:
        """``u``: by how much a copy of optimiser and parameters steps down."""
        params = [param.detach().clone() for param in self.params]
        optimizer = self.make(self._groups(params))
        optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        for settings in (optimizer.defaults, *optimizer.param_groups):
            settings.update(options)
        before = [param.clone() for param in params]
        if options:  # part of a graph; the counts are tensors there, 1 - b2^t a float32 by default
            for state in optimizer.state.values():
                state |= {"step": state["step"].double()} if "step" in state else {}
            for param, grad in zip(params, grads, strict=True):
                param.grad = grad
            optimizer.step()
        else:
            self._step(params, grads, optimizer)
        return [old - new for old, new in zip(before, params, strict=True)]

    def by_differences(self, step: float = 1e-5) -> list[Tensor]:
        """The same product from central differences of the optimiser's step."""
        found = []
        for place, grad in enumerate(self.grads):
            by = torch.zeros_like(grad)
            for index in range(grad.numel()):
                ends = []
                for sign in (1, -1):
                    moved = [each.clone() for each in self.grads]
                    moved[place].view(-1)[index] += sign * step
                    pairs = zip(self.update(moved), self.vector, strict=True)
                    ends.append(sum((u * v).sum() for u, v in pairs))
                by.view(-1)[index] = (ends[0] - ends[1]) / (2 * step)
            found.append(by)
        return found

    def by_autograd(self) -> list[Tensor]:
        """The same product by autograd through the optimiser's step."""
        grads = [grad.clone().requires_grad_() for grad in self.grads]
        updates = self.update([g * 1 for g in grads], differentiable=True, foreach=False)
        return list(torch.autograd.grad(updates, grads, self.vector))
