"""A batch's passes as the model is written: not compiled, fused or synchronised."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from common.errors import InputError


@contextmanager
def on_the_slow_path() -> Iterator[None]:
    """Transformer layers run as in training: with frozen parameters torch has them fused."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def not_compiled() -> AbstractContextManager[object]:
    """Compiled models run as they were written: their compiled form knows no later hooks."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance


def not_synchronised(model: nn.Module) -> AbstractContextManager[object]:
    """DistributedDataParallel sends nothing around: processes may have batches of their own."""
    if isinstance(model, DistributedDataParallel):
        return model.no_sync()
    return nullcontext()


def refuse_batch_norm_in_training(model: nn.Module) -> None:
    """Raises InputError where a sample's loss depends on the others."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            raise InputError(
                f"batch norm {name} is in training mode, where a sample's loss depends on the "
                "others; allowed: model.eval()"
            )
