"""What is refused, in one line: options out of range, blocks and inputs that have no Jacobian."""

from __future__ import annotations

import math
from numbers import Integral, Real

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from common.errors import InputError


def is_number(value: object) -> bool:
    """Whether a value is a real number and finite."""
    return isinstance(value, Real) and math.isfinite(value)


def check_gain(gain: float, also: str = "") -> None:
    """Raise InputError unless a gain is a positive number; ``also`` is what else is allowed."""
    if not (is_number(gain) and gain > 0):
        raise InputError(f"gain {gain!r}; allowed: a positive number{also}")


def check_count(
    name: str, count: int, least: int = 1, most: int | None = None, note: str = ""
) -> None:
    """Raise InputError unless a count is a whole number between two."""
    if not (isinstance(count, Integral) and least <= count and (most is None or count <= most)):
        span = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"{name} {count!r}; allowed: a whole number {span}{note}")


def check_real(what: str, value: object) -> None:
    """Raise InputError unless a value is a tensor of real floating-point numbers."""
    if not (isinstance(value, Tensor) and value.is_floating_point()):
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"{what} of type {kind}; allowed: a tensor of real floating-point numbers")


def check_gradients() -> None:
    """Raise InputError where what is computed would be no part of a graph."""
    if not torch.is_grad_enabled():
        raise InputError("gradients are off; allowed: outside of torch.no_grad()")


def check_block(block: nn.Module) -> None:
    """Raise InputError if nothing of a block can be regularised."""
    name = type(block).__name__
    if not any(weight.requires_grad for weight in block.parameters()):
        raise InputError(f"block {name}: no trainable parameters to regularise")
    if any(weight.is_complex() for weight in block.parameters()):
        raise InputError(f"block {name}: complex parameters; allowed: real ones")


def check_inputs(block: nn.Module, x: Tensor) -> None:
    """Raise InputError unless each example has a Jacobian of its own.

    Inputs are (n, ...) of real numbers, no side is empty, and batch normalisation does not make one
    example's output depend on others.
    """
    check_real("inputs", x)
    if x.ndim < 2 or not x.numel():
        raise InputError(
            f"inputs of shape {tuple(x.shape)}; allowed: (n, ...), at least two sides, none empty"
        )
    for name, module in block.named_modules():
        if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
            raise InputError(
                f"{type(module).__name__} {name!r}: batch normalisation by the batch's statistics"
                " couples the examples, which have no Jacobian of their own; allowed: eval(),"
                " evaluate=True, or blocks between normalisations"
            )
