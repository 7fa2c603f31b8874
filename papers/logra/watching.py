"""Which layers of a model are watched."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from common.errors import InputError
from papers.logra.layers import ALLOWED, has_rule


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel and ``torch.compile``."""
    while True:
        if isinstance(model, DistributedDataParallel | DataParallel):
            model = model.module
        elif isinstance(inside := getattr(model, "_orig_mod", None), nn.Module):
            model = inside
        else:
            return model


def watched(
    model: nn.Module,
    type_filter: Collection[type[nn.Module]] | None = None,
    name_filter: Collection[str] | None = None,
) -> dict[str, nn.Module]:
    """Layers of a model by name, in the model's order.

    Args:
        model: wrapped or not; names are those of the model inside.
        type_filter: types to watch; by default all that have a gradient rule but embeddings, whose
            gradients are as large as their tables.
        name_filter: substrings of which a name contains at least one.

    Raises:
        InputError: a type without a gradient rule, or no layer is left.
    """
    if isinstance(name_filter, str):
        raise InputError(f"name_filter {name_filter!r}; allowed: a list of substrings")
    for kind in type_filter or ():
        if not has_rule(kind):
            raise InputError(f"type_filter {kind.__name__}; allowed: {ALLOWED}")
    model = unwrapped(model)
    # MultiheadAttention reads the weights of its output projection and never runs it.
    never_run = {
        id(module.out_proj)
        for module in model.modules()
        if isinstance(module, nn.MultiheadAttention)
    }
    candidates = {
        name: module
        for name, module in model.named_modules()
        if has_rule(type(module)) and id(module) not in never_run
    }
    found = {
        name: module
        for name, module in candidates.items()
        if _of_type(module, type_filter)
        and (name_filter is None or any(part in name for part in name_filter))
    }
    if not found:
        kinds = {name: type(module).__name__ for name, module in candidates.items()}
        raise InputError(
            f"no layer passes type_filter {_names(type_filter)} and name_filter {name_filter}; "
            f"allowed: what some of these pass: {kinds}"
        )
    return found


def _of_type(module: nn.Module, type_filter: Collection[type[nn.Module]] | None) -> bool:
    if type_filter is None:
        return not isinstance(module, nn.Embedding)
    return isinstance(module, tuple(type_filter))


def _names(type_filter: Collection[type[nn.Module]] | None) -> list[str] | None:
    return None if type_filter is None else [kind.__name__ for kind in type_filter]
