"""Which layers of a model are watched."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.parallel import DataParallel, DistributedDataParallel

from common.errors import InputError
from papers.logra.gradients.attention import InProjection, in_projections, is_unrollable
from papers.logra.gradients.layers import ALLOWED, has_rule
from papers.logra.gradients.parameter_paths import find_parameters


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

    Of layers that share a weight the first one is watched, for all (see :mod:`tied_layers`). Frozen
    layers are not watched, unless all that pass the filters are frozen.

    Args:
        model: wrapped or not; names are those of the model inside.
        type_filter: types to watch; by default all that have a gradient rule but embeddings, whose
            gradients are as large as their tables. An ``nn.MultiheadAttention`` is four layers.
        name_filter: substrings of which a name contains at least one.

    Raises:
        InputError: a type without a gradient rule, or no layer is left.
    """
    if isinstance(name_filter, str):
        raise InputError(f"name_filter {name_filter!r}; allowed: a list of substrings")
    for kind in type_filter or ():
        if not has_rule(kind) and not issubclass(kind, nn.MultiheadAttention):
            raise InputError(
                f"type_filter {kind.__name__}; allowed: {ALLOWED} and MultiheadAttention"
            )
    candidates = find_layers(model)
    found = {
        name: layer
        for name, layer in candidates.items()
        if _of_type(layer, type_filter)
        and (name_filter is None or any(part in name for part in name_filter))
    }
    if any(is_trained(layer) for layer in found.values()):
        found = {name: layer for name, layer in found.items() if is_trained(layer)}
    found = _one_of_each(found)
    if not found:
        kinds = {name: type(module).__name__ for name, module in candidates.items()}
        raise InputError(
            f"no layer passes type_filter {_names(type_filter)} and name_filter {name_filter}; "
            f"allowed: what some of these pass: {kinds}"
        )
    return found


def find_layers(model: nn.Module) -> dict[str, nn.Module]:
    """All layers with a gradient rule, by name, whose weights are parameters of their own.

    Projections of an ``nn.MultiheadAttention`` are named after it: ``q_proj``, ``k_proj``,
    ``v_proj`` and ``out_proj``.
    """
    model = unwrapped(model)
    found: dict[str, nn.Module] = {}
    of_attention: set[int] = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            of_attention.add(id(module.out_proj))
            if is_unrollable(module):
                prefix = f"{name}." if name else ""
                found |= {prefix + part: layer for part, layer in in_projections(module).items()}
                found[f"{prefix}out_proj"] = module.out_proj
        elif has_rule(type(module)) and not is_computed(module) and id(module) not in of_attention:
            found[name] = module
    return found


def is_computed(layer: nn.Module) -> bool:
    """Whether a layer's weight is made of other parameters, as a norm, a mask and the like do."""
    own = layer._parameters
    parametrised = torch.nn.utils.parametrize.is_parametrized(layer)
    return parametrised or any(name.startswith("weight_") for name in own)


def is_trained(layer: nn.Module) -> bool:
    """Whether a layer's weight is a parameter that is not frozen, or one of unknown kind."""
    weight = find_parameters(layer, bias=False).get("weight")
    return weight is None or weight.requires_grad


def identify_weight(layer: nn.Module) -> Hashable:
    """What is equal for layers that share a weight."""
    weight = find_parameters(layer, bias=False).get("weight")
    return id(layer if weight is None else weight), getattr(layer, "part", None)


def _one_of_each(layers: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The first of layers that share a weight."""
    first: dict[Hashable, str] = {}
    for name, layer in layers.items():
        first.setdefault(identify_weight(layer), name)
    return {name: layers[name] for name in first.values()}


def _of_type(layer: nn.Module, type_filter: Collection[type[nn.Module]] | None) -> bool:
    if type_filter is None:
        return not isinstance(layer, nn.Embedding)
    # Layers of an attention are of its type, not linear ones.
    if isinstance(layer, InProjection | NonDynamicallyQuantizableLinear):
        return any(issubclass(kind, nn.MultiheadAttention) for kind in type_filter)
    return isinstance(layer, tuple(type_filter))


def _names(type_filter: Collection[type[nn.Module]] | None) -> list[str] | None:
    return None if type_filter is None else [kind.__name__ for kind in type_filter]
