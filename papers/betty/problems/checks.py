"""What a problem's optimiser and schedule must be."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from common.errors import InputError


def check_optimizer(name: str, optimizer: Any, params: Sequence[Tensor], custom: bool) -> None:
    """Refuse what cannot step ``params``.

    Args:
        name: of the problem, for errors.
        optimizer: a torch optimiser; or anything, where the problem has a step of its own.
        params: those of its module.
        custom: whether it has a ``custom_optimizer_step``.

    Raises:
        InputError: there is neither, it holds other parameters, or its step needs arguments.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        if optimizer is None and custom:
            return
        raise InputError(
            f"problem {name!r}: optimizer is {optimizer!r}; needs a torch optimiser"
            " or a custom_optimizer_step"
        )
    own = {id(p) for p in params}
    foreign = sum(id(p) not in own for group in optimizer.param_groups for p in group["params"])
    if foreign:
        raise InputError(
            f"problem {name!r}: its optimizer holds {foreign} parameters that are not its"
            " module's; it may hold only those"
        )
    wanted = needed(type(optimizer).step)
    if wanted and not custom:
        raise InputError(
            f"problem {name!r}: optimizer {type(optimizer).__name__} needs"
            f" {wanted[0]!r} for a step, as it evaluates the cost several times; allowed: one"
            " whose step() needs nothing (SGD, Adam, ...), or a custom_optimizer_step"
        )


def check_scheduler(name: str, scheduler: Any) -> None:
    """Raise InputError if a step of problem ``name``'s schedule needs arguments."""
    wanted = [] if scheduler is None else needed(type(scheduler).step)
    if wanted:
        raise InputError(
            f"problem {name!r}: scheduler {type(scheduler).__name__} needs {wanted[0]!r} for a"
            " step; allowed: one whose step() needs nothing (StepLR, LambdaLR, ...); step another"
            " in Engine.validation"
        )


def needed(method: Callable[..., Any]) -> list[str]:
    """Names of the arguments that a method must be given, beside the object itself."""
    _, *others = inspect.signature(method).parameters.values()
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    empty = inspect.Parameter.empty
    return [each.name for each in others if each.default is empty and each.kind not in kinds]
