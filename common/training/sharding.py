"""FSDP2: parameters, gradients and optimiser state spread over the devices.

On torch's own ``fully_shard``, which runs on CPUs as well, so that it can be tested without GPUs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

#: A state that is whole, and the same on any number of devices.
FULL: Final = StateDictOptions(full_state_dict=True, cpu_offload=True)


def shard(model: nn.Module, optimiser: torch.optim.Optimizer, device_type: str) -> None:
    """Shard ``model`` over all processes, block by block, and hand ``optimiser`` the shards."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    mesh = init_device_mesh(device_type, (torch.distributed.get_world_size(),))
    for block in _blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    shards = dict(model.named_parameters())
    for group in optimiser.param_groups:
        group["params"] = [shards[names[parameter]] for parameter in group["params"]]


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Items of the outermost lists of layers: what is gathered at one time."""
    for child in module.children():
        if not isinstance(module, nn.ModuleList | nn.Sequential):
            yield from _blocks(child)
        elif any(True for _ in child.parameters()):
            yield child


def full_state(item: Any, model: nn.Module | None = None) -> Any:
    """State of a model, an optimiser (of ``model``) or anything else, whole on the first device."""
    if isinstance(item, nn.Module):
        return get_model_state_dict(item, options=FULL)
    if model is not None:
        return get_optimizer_state_dict(model, item, options=FULL)
    return item.state_dict()


def set_full_state(item: Any, state: Any, model: nn.Module | None = None) -> None:
    """Put back what :func:`full_state` returned."""
    if isinstance(item, nn.Module):
        set_model_state_dict(item, state, options=FULL)
    elif model is not None:
        set_optimizer_state_dict(model, item, state, options=FULL)
    else:
        item.load_state_dict(state)
