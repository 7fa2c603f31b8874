"""Numbers that a problem's forward pass computes with: fp32, bf16, or fp16 with scaled losses."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.amp.grad_scaler import GradScaler

from common.errors import InputError
from papers.betty.configs import Config, Precision

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Context of a forward pass on ``device``."""
    dtype = DTYPES.get(precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def resolution(precision: Precision, own: torch.dtype) -> float:
    """Relative distance of neighbouring numbers in the forward pass of parameters in ``own``."""
    return torch.finfo(DTYPES.get(precision, own)).eps


def make_scaler(name: str, config: Config, device: torch.device) -> GradScaler | None:
    """What scales the losses of problem ``name``; None where its precision needs none.

    Raises:
        InputError: fp16 on a CPU.
    """
    if config.precision != "fp16":
        return None
    if device.type == "cpu":
        raise InputError(f"problem {name!r}: precision fp16 needs a GPU; bf16 does not")
    return GradScaler(
        device.type,
        init_scale=config.initial_dynamic_scale,
        growth_factor=config.scale_factor,
    )
