"""Which optimisers have a rule. A rule's module is loaded when an optimiser of its class is met."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final, TypeVar

import torch
from torch import Tensor

from common.errors import InputError
from papers.betty.hypergradient.adaptation.step import Step
from papers.betty.hypergradient.vectors import Vector

Function = TypeVar("Function", bound=Callable[..., Any])
#: (parameters, their states, hyper-parameters) before a step -> by name, an entry a parameter.
Remember = Callable[
    [Sequence[Tensor], Sequence[Mapping[str, Any]], Mapping[str, Any]], dict[str, Sequence[Any]]
]

#: Modules with the rules of torch's optimisers.
MODULES: Final[dict[type[torch.optim.Optimizer], str]] = {
    torch.optim.SGD: "sgd",
    torch.optim.Adam: "adam",
    torch.optim.AdamW: "adam",
    torch.optim.NAdam: "nadam",
    torch.optim.RAdam: "radam",
    torch.optim.Adamax: "adamax",
    torch.optim.RMSprop: "rmsprop",
    torch.optim.Adagrad: "adagrad",
    torch.optim.Adadelta: "adadelta",
    torch.optim.Adafactor: "adafactor",
}


@dataclass(frozen=True)
class Rule:
    """The derivative of an optimiser's update by the gradient.

    Attributes:
        function: ``step -> D``, or ``(step, vector) -> (du/dg)' vector`` if not ``diagonal``.
        diagonal: whether the update is element-wise.
        reads_gradient: whether D depends on the gradient, which is then kept from the step on.
        l2: whether ``weight_decay`` adds to the gradient, unless ``decoupled_weight_decay``.
        flat_start: whether the first update hardly depends on the gradient's length, so that D
            vanishes with the optimiser's eps.
        splits: whether ``function`` reads tensors through the methods of :class:`Step` alone, so
            that it can be asked for a part of a large one, and returns new ones.
        remember: what to keep from before a step, see :data:`Remember`.
    """

    function: Callable[..., Any]
    diagonal: bool = True
    reads_gradient: bool = True
    l2: bool = True
    flat_start: bool = False
    splits: bool = False
    remember: Remember | None = None

    def product(self, step: Step, vector: Vector) -> Vector:
        """``(du/dg)' vector``."""
        if not self.diagonal:
            return list(self.function(step, vector))
        slope = self.function(step)
        if not self.splits or not isinstance(slope, list):
            return list(torch._foreach_mul(vector, slope))
        torch._foreach_mul_(slope, vector)
        return list(slope)


_rules: dict[type[torch.optim.Optimizer], Rule] = {}


def register(
    *classes: type[torch.optim.Optimizer], **options: Any
) -> Callable[[Function], Function]:
    """Decorator: the function is the rule of these optimisers; options are those of :class:`Rule`.

    ::

        @register(Cubic)  # of u = lr (g + g^3)
        def cubic(step: Step) -> Diagonal:
            return [step["lr"] * (1 + 3 * grad**2) for grad in step.gradient()]
    """

    def registered(function: Function) -> Function:
        _rules.update(dict.fromkeys(classes, Rule(function, **options)))
        return function

    return registered


def find_rule(optimizer: torch.optim.Optimizer) -> Rule:
    """The rule of an optimiser's class, or of one whose ``step`` that class inherits.

    Raises:
        InputError: there is none; the message lists the classes that have one.
    """
    kind = type(optimizer)
    for base in kind.__mro__:
        if base in MODULES and base not in _rules:
            import_module(f".{MODULES[base]}", __package__)
        # torch wraps the method of each class that it meets.
        if base in _rules and inspect.unwrap(kind.step) is inspect.unwrap(base.step):
            return _rules[base]
    raise InputError(
        f"optimizer {kind.__name__}: no rule for the derivative of its update by the gradient;"
        f" allowed: {', '.join(supported())}, what `register` adds, or none (SAMA-NA)"
    )


def has_rule(optimizer: torch.optim.Optimizer) -> bool:
    """Whether :class:`Adaptation` takes an optimiser."""
    try:
        find_rule(optimizer)
    except InputError:
        return False
    return True


def supported() -> list[str]:
    """Names of the optimisers that have a rule."""
    return sorted({kind.__name__ for kind in (*MODULES, *_rules)})
