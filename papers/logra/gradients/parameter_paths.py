"""The ways from a watched layer's parameters to the loss: hooks on the layer see one of them.

A gradient that arrives on another way, through a function that is given the weight, a module that
has it too or a penalty on it, would be missing. So would one through a layer that does something
else than its type says. Both are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import InputError
from papers.logra.gradients.attention import InProjection
from papers.logra.gradients.layers import SUPPORTED


class SecondPathError(InputError):
    """A parameter of a layer reaches the loss on another path than through the layer."""

    def __init__(self, layer: str, message: str) -> None:
        super().__init__(f"layer {layer}: {message}")
        self.layer = layer


class TiedWeightError(SecondPathError):
    """That path is a module that has the parameter too."""


def find_parameters(layer: nn.Module, bias: bool) -> dict[str, nn.Parameter]:
    """A layer's weight, and if ``bias`` its bias, that are parameters."""
    if isinstance(layer, InProjection):
        found = dict(zip(("weight", "bias"), layer.parameters_of_it, strict=False))
    else:
        found = {k: v for k in ("weight", "bias") if (v := layer._parameters.get(k)) is not None}
    return {kind: found[kind] for kind in found if bias or kind == "weight"}


@contextmanager
def frozen(model: nn.Module, layers: Mapping[str, nn.Module], bias: bool) -> Iterator[None]:
    """No parameter requires a gradient inside, but those of ``layers`` while these do not run.

    So a graph begins at the layers' outputs, and a gradient of a parameter of theirs is one that
    came on another way: where it arrives, it is refused.

    Args:
        model: all of it.
        layers: whose gradients are taken.
        bias: whether biases count.

    Raises:
        SecondPathError: in the backward pass.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with ExitStack() as stack:
        stack.callback(_require, trained, True)
        guarded: dict[str, list[nn.Parameter]] = {}
        seen: set[int] = set()
        for name, layer in layers.items():
            # Those of a sharded model are others while a layer runs.
            own = {
                kind: parameter
                for kind, parameter in find_parameters(layer, bias).items()
                if parameter.requires_grad and type(parameter) is nn.Parameter
            }
            guarded[name] = list(own.values())
            for kind, parameter in own.items():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    refusing = partial(_refuse, model, name, kind, parameter)
                    stack.callback(parameter.register_hook(refusing).remove)  # type: ignore[no-untyped-call]
        _require(trained, False)
        for name, layer in layers.items():
            own_ones = guarded[name]
            _require(own_ones, True)
            before = layer.register_forward_pre_hook(lambda *_, p=own_ones: _require(p, False))  # type: ignore[misc]
            after = layer.register_forward_hook(
                lambda *_, p=own_ones: _require(p, True),  # type: ignore[misc]
                always_call=True,
            )
            stack.callback(before.remove)
            stack.callback(after.remove)
        yield


def check_forward(
    name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
) -> None:
    """Refuse a layer of a subclass whose output is not that of its type.

    Args:
        name: of the layer.
        layer: that ran.
        args, kwargs, output: what it was given and gave.

    Raises:
        SecondPathError: it does something else, of which its rule knows nothing.
    """
    kind = next((kind for kind in SUPPORTED if isinstance(layer, kind)), None)
    if kind is None or isinstance(layer, InProjection):
        return
    weight = layer._parameters.get("weight")
    known = type(layer).forward is kind.forward
    if known or type(weight) is not nn.Parameter or not weight.is_floating_point():
        return
    with torch.no_grad():
        expected = kind.forward(layer, *args, **kwargs)
        same = expected.shape == output.shape
        error = (expected - output).norm() if same else expected.new_tensor(torch.inf)
        if error > torch.finfo(output.dtype).eps ** 0.5 * expected.norm():
            raise SecondPathError(
                name,
                f"{type(layer).__name__} gives something else than "
                f"{kind.__name__} does of its weight, so its gradient is not known; allowed: "
                f"{kind.__name__}, or not to watch it",
            )


def _require(parameters: list[nn.Parameter], value: bool) -> None:
    for parameter in parameters:
        parameter.requires_grad_(value)


def _refuse(
    model: nn.Module, name: str, kind: str, parameter: nn.Parameter, gradient: Tensor
) -> None:
    owners = [
        where
        for where, module in model.named_modules()
        if any(own is parameter for own in module._parameters.values())
    ]
    kind_of_error = TiedWeightError if len(owners) > 1 else SecondPathError
    tied = f", a parameter of {' and '.join(owners)} too," if len(owners) > 1 else ""
    raise kind_of_error(
        name,
        f"its {kind}{tied} reaches the loss on a second path, not through the layer "
        "(a function is given it, or a penalty is on it), whose part of a sample's gradient is not "
        "seen; allowed: to use it through the layer alone, or not to watch the layer",
    )
