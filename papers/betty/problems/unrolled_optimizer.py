"""SGD, Adam and AdamW as functions of the gradient, so that their steps can be differentiated.

Given the same gradients they take the steps of ``torch.optim`` (a test holds them to it); the state
of the user's own optimiser is read before a loop and kept up to date in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW

from common.errors import InputError
from papers.betty.hypergradient.vectors import Partial, Vector

_State = dict[str, Any]


class UnrolledOptimizer:
    """Differentiable steps of a given optimiser.

    Args:
        optimizer: SGD (momentum, dampening, Nesterov, weight decay), Adam or AdamW.
        name: of the problem, for errors.

    Raises:
        InputError: another optimiser, or an option whose step has no useful derivative.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, name: str) -> None:
        if type(optimizer) not in (SGD, Adam, AdamW):
            raise InputError(
                f"problem {name!r}: unrolled steps need SGD, Adam or AdamW, got"
                f" {type(optimizer).__name__}"
            )
        if any(group.get("amsgrad") for group in optimizer.param_groups):
            raise InputError(f"problem {name!r}: unrolled steps do not support amsgrad=True")
        self._optimizer = optimizer

    def begin(self, params: Sequence[Tensor]) -> None:
        """Take up the optimiser's state for ``params``, whose steps are recorded from now on."""
        self._params = list(params)
        groups = {id(p): group for group in self._optimizer.param_groups for p in group["params"]}
        self._groups = [groups.get(id(p)) for p in self._params]
        self._states: list[_State] = [dict(self._optimizer.state.get(p, {})) for p in self._params]

    def end(self) -> None:
        """Let go of the record; the optimiser keeps the values."""
        self._states = []

    def step(self, weights: Vector, gradient: Partial) -> Vector:
        """Weights after one step, as a function of ``weights`` and ``gradient``."""
        update = _sgd if isinstance(self._optimizer, SGD) else _adam
        decoupled = isinstance(self._optimizer, AdamW)
        stepped = []
        for weight, grad, group, state, param in zip(
            weights, gradient, self._groups, self._states, self._params, strict=True
        ):
            if grad is None or group is None:
                stepped.append(weight)
                continue
            signed = -grad if group.get("maximize") else grad
            stepped.append(update(weight, signed, group, state, decoupled))
            self._optimizer.state[param] = {
                key: value.detach() if isinstance(value, Tensor) else value
                for key, value in state.items()
            }
        return stepped


def _sgd(weight: Tensor, grad: Tensor, group: _State, state: _State, _decoupled: bool) -> Tensor:
    if group["weight_decay"]:
        grad = grad.add(weight, alpha=group["weight_decay"])
    if group["momentum"]:
        buffer = state.get("momentum_buffer")
        if buffer is None:
            buffer = grad
        else:
            fresh = (1 - group["dampening"]) * grad if group["dampening"] else grad
            buffer = fresh.add(buffer, alpha=group["momentum"])
        state["momentum_buffer"] = buffer
        grad = grad.add(buffer, alpha=group["momentum"]) if group["nesterov"] else buffer
    return weight.sub(grad, alpha=group["lr"])


def _adam(weight: Tensor, grad: Tensor, group: _State, state: _State, decoupled: bool) -> Tensor:
    beta1, beta2 = group["betas"]
    lr, decay = group["lr"], group["weight_decay"]
    decoupled = decoupled or bool(group.get("decoupled_weight_decay"))
    if decay and decoupled:
        weight = weight * (1 - lr * decay)
    elif decay:
        grad = grad + decay * weight
    step = float(state.get("step", 0.0)) + 1
    zeros = torch.zeros_like(grad).detach()
    first = beta1 * state.get("exp_avg", zeros) + (1 - beta1) * grad
    second = beta2 * state.get("exp_avg_sq", zeros) + (1 - beta2) * grad * grad
    state |= {"step": torch.tensor(step), "exp_avg": first, "exp_avg_sq": second}
    # A root at zero has no derivative; where no gradient ever was, the step is zero anyway.
    positive = second > 0
    root = torch.where(positive, second, torch.ones_like(second)).sqrt()
    scale = torch.where(positive, root, torch.zeros_like(root)) / (1 - beta2**step) ** 0.5
    stepped: Tensor = weight - (lr / (1 - beta1**step)) * first / (scale + group["eps"])
    return stepped
