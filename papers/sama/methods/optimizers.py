"""One real step of torch's optimisers as a function that can be differentiated."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Final, Literal

import torch
from pydantic import Field
from torch import Tensor

from common.experiments.settings import Settings

OptimizerKind = Literal[
    "sgd",
    "adam",
    "adamw",
    "nadam",
    "radam",
    "adamax",
    "rmsprop",
    "adagrad",
    "adadelta",
    "adafactor",
]
KINDS: Final[dict[str, type[torch.optim.Optimizer]]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "adamax": torch.optim.Adamax,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "adadelta": torch.optim.Adadelta,
    "adafactor": torch.optim.Adafactor,
}
#: Half the distance, in meta parameters, of central differences of a step in float64.
APART: Final = 1e-5


class AnyOptimizer(Settings):
    """An optimiser with a rule; what is not named here is torch's default."""

    kind: OptimizerKind
    lr: float = Field(gt=0)
    momentum: float = Field(0.0, ge=0, description="sgd and rmsprop only")
    nesterov: bool = Field(False, description="sgd only")
    amsgrad: bool = Field(False, description="adam and adamw only")
    centered: bool = Field(False, description="rmsprop only")
    weight_decay: float | None = Field(None, ge=0, description="None: torch's default")

    def make(self, params: Sequence[Tensor]) -> torch.optim.Optimizer:
        """The optimiser."""
        named = self.model_dump(exclude={"kind", "lr"}, exclude_defaults=True)
        make: Callable[..., torch.optim.Optimizer] = KINDS[self.kind]
        return make(params, lr=self.lr, **named)

    @property
    def differentiable(self) -> bool:
        """Whether torch can make its step part of a graph."""
        return "differentiable" in inspect.signature(KINDS[self.kind]).parameters


class Moment:
    """Weights and state of an optimiser before a step, from which steps can be taken again."""

    def __init__(
        self,
        settings: AnyOptimizer,
        weights: Sequence[Tensor],
        optimizer: torch.optim.Optimizer,
        clip_norm: float | None,
    ) -> None:
        self.settings, self.clip_norm = settings, clip_norm
        self.weights = [weight.detach().clone() for weight in weights]
        self._state = copy.deepcopy(optimizer.state_dict())

    def step(self, grads: Sequence[Tensor]) -> list[Tensor]:
        """Weights after torch's own step along ``grads``, clipped; part of their graph, if any."""
        recorded = any(grad.requires_grad for grad in grads)
        weights = [weight.clone() for weight in self.weights]
        optimizer = self.settings.make(weights)
        optimizer.load_state_dict(copy.deepcopy(self._state))
        if recorded:
            for options in (optimizer.defaults, *optimizer.param_groups):
                options |= {"differentiable": True, "foreach": False}
            for state in optimizer.state.values():  # counts are float32 tensors: too coarse
                state |= {"step": state["step"].double()} if "step" in state else {}
        for weight, grad in zip(weights, clipped(grads, self.clip_norm), strict=True):
            # Where no sample of the batch has a gradient, a weight of a sample changes nothing; but
            # autograd takes the root of a mean square of 0 there, and has NaN.
            weight.grad = torch.where(grad == 0, grad.detach(), grad) if recorded else grad
        optimizer.step()
        return weights


def clipped(grads: Sequence[Tensor], largest: float | None) -> list[Tensor]:
    """Gradients clipped to a global norm as torch does it; differentiable, and not in place."""
    if largest is None:
        return [grad * 1 for grad in grads]
    norm = torch.stack([grad.square().sum() for grad in grads]).sum().sqrt()
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)
    return [grad * factor for grad in grads]


def through_step(
    moment: Moment,
    gradient: Callable[[Sequence[Tensor], Tensor], Sequence[Tensor]],
    meta_cost: Callable[[Sequence[Tensor]], Tensor],
    params: Tensor,
) -> Tensor:
    """Derivative of the meta cost after one step by ``params`` (m,), by autograd.

    Args:
        gradient: (weights, params) -> the base cost's gradient by the weights, with a graph.
        meta_cost: of the weights after the step.
    """
    params = params.detach().clone().requires_grad_()
    start = [weight.clone().requires_grad_() for weight in moment.weights]
    after = moment.step(gradient(start, params))
    (found,) = torch.autograd.grad(meta_cost(after), params)
    return found


def by_differences(
    moment: Moment,
    gradient: Callable[[Sequence[Tensor], Tensor], Sequence[Tensor]],
    meta_cost: Callable[[Sequence[Tensor]], Tensor],
    params: Tensor,
) -> Tensor:
    """The same by central differences of the step, for a base cost that is linear in ``params``.

    For optimisers whose step torch cannot record. The gradient, being linear, is computed once for
    each of the m parameters; only the step is repeated.
    """
    start = [weight.clone().requires_grad_() for weight in moment.weights]
    at = [part.detach() for part in gradient(start, params)]
    found = torch.empty_like(params)
    for index in range(len(params)):
        one = torch.zeros_like(params)
        one[index] = 1.0
        along = [part.detach() for part in gradient(start, one)]
        ends = []
        for sign in (1, -1):
            moved = [g + sign * APART * a for g, a in zip(at, along, strict=True)]
            ends.append(float(meta_cost(moment.step(moved))))
        found[index] = (ends[0] - ends[1]) / (2 * APART)
    return found
