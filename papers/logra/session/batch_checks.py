"""What is said before a batch: memory that it takes, and modules that draw at random."""

from __future__ import annotations

import logging

import torch
from torch import nn

from papers.logra.curvature.memory_limits import require_memory
from papers.logra.session.configs import LoggingConfig
from papers.logra.session.watched_model import WatchedModel

LOGGER = logging.getLogger("logra")

#: A larger gradient of one sample is told of: a chunk of the log, and more than projections leave.
LARGE_BYTES = 64 << 20
LESS = "projections (lora), filters for fewer layers, smaller batches"


class BatchChecks:
    """Says each thing once."""

    def __init__(self) -> None:
        self._sized: str | None = None
        self._drawing_told = False

    def check_batch(
        self, model: WatchedModel, samples: int, logging_config: LoggingConfig, keeps: bool
    ) -> None:
        """Before a batch.

        Args:
            samples: how many gradients it takes; 0 where none are.
            keeps: whether statistics of gradients are gathered.

        Raises:
            InputError: the batch's gradients, and the same for statistics, are more bytes than are
                free.
        """
        self._size(model, samples, logging_config, keeps)
        if not self._drawing_told and (names := drawing(model.model)):
            self._drawing_told = True
            LOGGER.warning(
                "dropout is on in %s: gradients are those of one draw; model.eval() ends that",
                names,
            )

    def _size(
        self, model: WatchedModel, samples: int, logging_config: LoggingConfig, keeps: bool
    ) -> None:
        first = next(model.model.parameters())
        kind = logging_config.computed or torch.promote_types(first.dtype, torch.float32)
        row = model.layout.width * kind.itemsize
        if not samples or (row <= LARGE_BYTES and samples * row <= LARGE_BYTES):
            return
        needed = samples * row * (2 if keeps else 1)
        if row > LARGE_BYTES and self._sized != model.layout.digest:
            self._sized = model.layout.digest
            LOGGER.warning(
                "a sample's gradient has %s numbers and takes %.3g MB, %d samples %.3g GB in memory"
                " and %.3g GB in the log; less takes %s",
                f"{model.layout.width:,}",
                row / 1e6,
                samples,
                needed / 1e9,
                samples * row / 1e9,
                LESS,
            )
        what = f"gradients of {samples} samples with {model.layout.width:,} numbers each"
        require_memory(needed, first.device, what, LESS)


def drawing(model: nn.Module) -> str:
    """Names of modules in training mode whose dropout draws, the first three; empty if none."""
    names = [
        name or type(module).__name__
        for name, module in model.named_modules()
        if module.training and _drops(module)
    ]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _drops(module: nn.Module) -> bool:
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    # Attention and recurrent layers have a number of this name.
    share = getattr(module, "dropout", 0.0)
    return isinstance(share, float) and share > 0
